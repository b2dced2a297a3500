"""Reads rows of a data set as LLaMA-Factory and axolotl document their formats.

LLaMA-Factory   data/README.md: fields of dataset_info.json, "Alpaca Format", "Sharegpt Format" and
                "OpenAI Format"
axolotl         docs/dataset-formats/conversation.qmd, "chat_template"; docs/dataset-formats/
                inst_tune.qmd, "alpaca"; docs/config.qmd: defaults of field_messages,
                message_property_mappings and roles

Each reader returns the texts that the trainer prompts with and trains on, and fails on a field, a
type or a role that is not documented.
"""

import re

import yaml

Texts = tuple[str, str]  # prompt, target

DESCRIPTION = {"file_name", "formatting", "ranking", "columns", "tags"}  # of a local file
COLUMNS = {
  "alpaca": {"prompt", "query", "response", "history", "system"},
  "sharegpt": {"messages", "system", "tools"},
}
REQUIRED = {"alpaca": {"prompt", "response"}, "sharegpt": {"messages"}}
TAGS = {
  "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
  "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip


def llama_factory(description: dict, row: dict) -> Texts:
  """Reads a row by its description in dataset_info.json."""
  assert set(description) <= DESCRIPTION and isinstance(description["file_name"], str)
  formatting = description.get("formatting", "alpaca")
  columns = description["columns"]
  assert REQUIRED[formatting] <= set(columns) <= COLUMNS[formatting]
  assert set(columns.values()) <= set(row)
  tags = description.get("tags", {})
  assert set(tags) <= set(TAGS) and (formatting == "sharegpt" or not tags)
  if formatting == "alpaca":
    parts = [row[columns[name]] for name in ("prompt", "query") if name in columns]
    return "\n".join(part for part in parts if part), row[columns["response"]]
  tags = TAGS | tags
  turns = row[columns["messages"]]
  # Users stand in odd positions, the assistant in even ones.
  roles = [tags["user_tag"], tags["assistant_tag"]] * (len(turns) // 2)
  assert [turn[tags["role_tag"]] for turn in turns] == roles and turns
  asked, answered = (turn[tags["content_tag"]] for turn in turns)
  return asked, answered


AXOLOTL = {"type", "field_messages", "message_property_mappings"}
ROLES = {"user": ("user", "human"), "assistant": ("assistant", "gpt")}


def axolotl_settings(card: str) -> dict:
  """Returns the settings of a data set that a data card gives for axolotl."""
  text = re.search(r"axolotl: (`.*?`)\.", card, re.DOTALL)
  assert text is not None
  found: dict = {}
  for setting in re.findall("`(.*?)`", text[1]):
    found |= yaml.safe_load(setting)
  return found


def axolotl(settings: dict, row: dict) -> Texts:
  """Reads a row by the settings of a data set in axolotl."""
  assert set(settings) <= AXOLOTL
  if settings["type"] == "alpaca":
    assert row["input"] == "" and "text" not in row
    return row["instruction"], row["output"]
  assert settings["type"] == "chat_template"
  names = {"role": "role", "content": "content"} | settings.get("message_property_mappings", {})
  turns = row[settings.get("field_messages", "messages")]
  for turn, role in zip(turns, ("user", "assistant"), strict=True):
    assert turn[names["role"]] in ROLES[role]
  asked, answered = (turn[names["content"]] for turn in turns)
  return asked, answered
