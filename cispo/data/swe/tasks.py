"""Turns instances into tasks: what a policy is told of them, in either form of a rollout."""

from collections.abc import Sequence
from typing import Literal, get_args

from cispo.data.swe.instance import Instance
from cispo.errors import ConfigError
from cispo.types import Message, Task

Form = Literal["single_shot", "agent"]

_SINGLE_SHOT = """\
Below are an issue of a repository and the files that it is about. Reply with the change that \
solves the issue, as a unified diff in a ```diff block, or as blocks of this form, each below the \
path of its file:

<<<<<<< SEARCH
lines as they are
=======
lines as they shall be
>>>>>>> REPLACE
"""
_AGENT = """\
The repository of the issue below lies in your working folder. Solve the issue by changing the \
repository, then call submit. Hidden tests decide; changes of tests are ignored.

A turn calls functions, each as one line of JSON:

<tool_calls>
{"name": "bash", "arguments": {"command": "ls"}}
</tool_calls>

bash runs a command (command); view shows a file (path, and optionally first_line and last_line); \
edit replaces a text that occurs once in a file, or makes a new file of an empty old text (path, \
old, new); submit ends the work (no arguments).
"""


def instance_task(instance: Instance, form: Form, *, source: str) -> Task:
    """Return the task of an instance.

    Args:
        instance: The instance.
        form: `single_shot`, where the prompt shows files and the answer is a patch, or `agent`,
            where the policy acts in the repository.
        source: Name for metrics.

    Raises:
        ConfigError: The form does not exist, or there is no file to show.
    """
    check_form(form)
    if form == "single_shot" and not instance.shown_files:
        raise ConfigError(
            f"{instance.instance_id}: 'shown_files' is empty, and options.form=single_shot shows "
            "files in the prompt; make the rows with python -m launch.prepare, or use form=agent"
        )
    issue = f"<issue>\n{instance.problem_statement.strip()}\n</issue>\n"
    files = [f"<file path={path}>\n{text}</file>\n" for path, text in instance.shown_files.items()]
    parts: Sequence[str] = (
        [_SINGLE_SHOT, issue, *files] if form == "single_shot" else [_AGENT, issue]
    )
    return Task(
        task_id=instance.instance_id,
        messages=(Message(role="user", content="\n".join(parts)),),
        verifier="swe",
        truth={"instance": instance.to_json()},
        source=source,
        solution=instance.patch if form == "single_shot" else None,
        is_agentic=form == "agent",
    )


def check_form(form: str) -> None:
    """Refuse a form that does not exist.

    Raises:
        ConfigError: With those that do.
    """
    if form not in get_args(Form):
        raise ConfigError(f"options.form={form!r}: choose {' or '.join(get_args(Form))}")
