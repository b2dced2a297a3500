"""The fields of a JobSet that launch/jobset.yaml may use, checked strictly.

Source: the schema of JobSet v1alpha2 (kubernetes-sigs/jobset,
config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml), which also contains those of Job and Pod.
Fields that the file does not use are left out, except where a wrong choice between fields is easy.
A real API server drops unknown fields by default, so a misspelt one would have no effect.
"""

from typing import Any

TEXT, NUMBER, FLAG = str, int, bool
QUANTITIES = {"*": (TEXT, NUMBER)}
TEXTS = {"*": TEXT}
METADATA = {"name": TEXT, "namespace": TEXT, "labels": TEXTS, "annotations": TEXTS}
KEY = {"name": TEXT, "key": TEXT, "optional": FLAG}
REQUIRED = "required"  # a list of names in a group of fields

CONTAINER = {
  REQUIRED: ["name"],
  "name": TEXT,
  "image": TEXT,
  "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
  "command": [TEXT],
  "args": [TEXT],
  "workingDir": TEXT,
  "env": [
    {
      REQUIRED: ["name"],
      "name": TEXT,
      "value": TEXT,
      "valueFrom": {
        "fieldRef": {REQUIRED: ["fieldPath"], "apiVersion": TEXT, "fieldPath": TEXT},
        "secretKeyRef": {REQUIRED: ["key"], **KEY},
        "configMapKeyRef": {REQUIRED: ["key"], **KEY},
      },
    }
  ],
  "resources": {"limits": QUANTITIES, "requests": QUANTITIES},
  "ports": [{REQUIRED: ["containerPort"], "containerPort": NUMBER, "name": TEXT}],
  "volumeMounts": [
    {
      REQUIRED: ["mountPath", "name"],
      "name": TEXT,
      "mountPath": TEXT,
      "subPath": TEXT,
      "readOnly": FLAG,
    }
  ],
}
POD = {
  REQUIRED: ["containers"],
  "containers": [CONTAINER],
  "initContainers": [CONTAINER],
  "restartPolicy": {"Never", "OnFailure"},  # of a Job
  "terminationGracePeriodSeconds": NUMBER,
  "nodeSelector": TEXTS,
  "hostNetwork": FLAG,
  "dnsPolicy": TEXT,
  "serviceAccountName": TEXT,
  "priorityClassName": TEXT,
  "volumes": [
    {
      REQUIRED: ["name"],
      "name": TEXT,
      "persistentVolumeClaim": {REQUIRED: ["claimName"], "claimName": TEXT, "readOnly": FLAG},
      "emptyDir": {"medium": TEXT, "sizeLimit": (TEXT, NUMBER)},
    }
  ],
}
JOB = {
  REQUIRED: ["template"],
  "activeDeadlineSeconds": NUMBER,
  "backoffLimit": NUMBER,
  "backoffLimitPerIndex": NUMBER,
  "completionMode": {"Indexed", "NonIndexed"},
  "completions": NUMBER,
  "parallelism": NUMBER,
  "maxFailedIndexes": NUMBER,
  "podFailurePolicy": {
    REQUIRED: ["rules"],
    "rules": [
      {
        REQUIRED: ["action"],
        "action": {"FailJob", "FailIndex", "Ignore", "Count"},
        "onExitCodes": {
          REQUIRED: ["operator", "values"],
          "containerName": TEXT,
          "operator": {"In", "NotIn"},
          "values": [NUMBER],
        },
        "onPodConditions": [{REQUIRED: ["status", "type"], "status": TEXT, "type": TEXT}],
      }
    ],
  },
  "podReplacementPolicy": {"Failed", "TerminatingOrFailed"},
  "suspend": FLAG,
  "template": {"metadata": METADATA, "spec": POD},
  "ttlSecondsAfterFinished": NUMBER,
}
JOBSET = {
  REQUIRED: ["apiVersion", "kind", "metadata", "spec"],
  "apiVersion": {"jobset.x-k8s.io/v1alpha2"},
  "kind": {"JobSet"},
  "metadata": METADATA,
  "spec": {
    "coordinator": {
      REQUIRED: ["replicatedJob"],
      "replicatedJob": TEXT,
      "jobIndex": NUMBER,
      "podIndex": NUMBER,
    },
    "failurePolicy": {
      "maxRestarts": NUMBER,
      "restartStrategy": {"Recreate", "BlockingRecreate"},
      "rules": [
        {
          REQUIRED: ["action", "name"],
          "name": TEXT,
          "action": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
          "onJobFailureReasons": [TEXT],
          "targetReplicatedJobs": [TEXT],
        }
      ],
    },
    "network": {"enableDNSHostnames": FLAG, "publishNotReadyAddresses": FLAG, "subdomain": TEXT},
    "replicatedJobs": [
      {
        REQUIRED: ["name", "template"],
        "name": TEXT,
        "replicas": NUMBER,
        "template": {"metadata": METADATA, "spec": JOB},
      }
    ],
    "suspend": FLAG,
    "ttlSecondsAfterFinished": NUMBER,
  },
}


def faults(value: Any, schema: Any, where: str = "") -> list[str]:
  """Returns what is wrong with a value, one line each.

  A schema is a type, a tuple of types, a set of the allowed texts, a list with the schema of the
  elements, or a dict of fields ("*": any name).
  """
  if isinstance(schema, dict):
    if not isinstance(value, dict):
      return [f"{where} is {value!r}, not an object"]
    found = [f"{where}.{name} is missing" for name in schema.get(REQUIRED, ()) if name not in value]
    for name, part in value.items():
      field = schema.get(name, schema.get("*")) if name != REQUIRED else None
      path = f"{where}.{name}"
      found += [f"{path} is unknown"] if field is None else faults(part, field, path)
    return found
  if isinstance(schema, list):
    if not isinstance(value, list):
      return [f"{where} is {value!r}, not a list"]
    return [
      text for n, part in enumerate(value) for text in faults(part, schema[0], f"{where}[{n}]")
    ]
  if isinstance(schema, set):
    return [] if value in schema else [f"{where} is {value!r}, not one of {sorted(schema)}"]
  good = isinstance(value, schema) and (schema is bool or not isinstance(value, bool))
  return [] if good else [f"{where} is {value!r}"]
