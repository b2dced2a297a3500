"""Chat templates of exported students: they render exactly the prompt of the training.

A student that was trained on plain text gets a template that puts the last user message into that
text. One that was trained with its chat template keeps it; what the run added (a system message,
worked examples, text around the question, no thinking) is added at the beginning of the template,
where a caller's messages do not already have it.
"""

from distill_jax import records
from distill_jax.data.template_text import PLAIN_MARK, THINKING_MARK, literal, prefixed

QUESTION = "\ue000question\ue000"  # stands for the user's message in a prompt that is taken apart


def plain(prompt: str, *, start: str = "", end: str = "") -> str:
  """Returns the template of a plain prompt.

  Args:
    prompt: The prompt, with QUESTION in the place of the user's message.
    start: Text of the tokens before the prompt.
    end: Text of the tokens after it.
  """
  before, _, after = prompt.partition(QUESTION)
  return (
    f"{PLAIN_MARK}"
    "{%- set last = namespace(text='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{%- set last.text = message['content'] -%}{%- endif -%}"
    "{%- endfor -%}"
    f"{{{{- {literal(start + before)} + last.text + {literal(after + end)} -}}}}"
  )


def chat(template: str, messages: records.Messages, *, thinking: bool = False) -> str:
  """Returns the chat template of a student, with what the run's prompts add to a question.

  Args:
    template: The student's own template.
    messages: The prompt, with QUESTION in the place of the user's message, and with the system
      message if the template has a place for it.
    thinking: Whether the student was trained to think before its reply.
  """
  *earlier, (_, asked) = messages
  before, _, after = asked.partition(QUESTION)
  system = [message for message in earlier if message[0] == "system"]
  shots = [message for message in earlier if message[0] != "system"]
  parts = []
  template = template.removeprefix(THINKING_MARK)
  if "enable_thinking" in template:
    default = "true" if thinking else "false"
    parts.append(
      "{%- if enable_thinking is not defined -%}"
      f"{{%- set enable_thinking = {default} -%}}{{%- endif -%}}"
    )
  if shots or before or after:  # a conversation that has replies is past its first question
    parts.append(
      "{%- set trained = namespace(replies=false) -%}"
      "{%- for message in messages -%}"
      "{%- if message['role'] == 'assistant' -%}{%- set trained.replies = true -%}{%- endif -%}"
      "{%- endfor -%}"
      f"{{%- if not trained.replies{_unless_present(before, after)} -%}}"
      f"{{%- set messages = messages[:-1] + {_list(shots)} + [{{'role': 'user', 'content': "
      f"{literal(before)} + messages[-1]['content'] + {literal(after)}}}] -%}}"
      "{%- endif -%}"
    )
  if system:
    parts.append(
      "{%- if messages[0]['role'] != 'system' -%}"
      f"{{%- set messages = {_list(system)} + messages -%}}"
      "{%- endif -%}"
    )
  return prefixed((THINKING_MARK if thinking else "") + "".join(parts), template)


def _unless_present(before: str, after: str) -> str:
  """A condition: the last message does not already have the text around the question."""
  tests = [("startswith", before), ("endswith", after)]
  present = [f"messages[-1]['content'].{name}({literal(x)})" for name, x in tests if x]
  return f" and not ({' and '.join(present)})" if present else ""


def _list(messages: records.Messages | list[tuple[str, str]]) -> str:
  items = [f"{{'role': {literal(role)}, 'content': {literal(text)}}}" for role, text in messages]
  return f"[{', '.join(items)}]"
