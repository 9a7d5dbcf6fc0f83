"""`launch.evaluate` as a user calls it: all sets, resumed, compared, from every kind of engine."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cispo.data.swe.toy import SweToyFamily
from cispo.errors import SandboxUnavailableError
from cispo.policy.load import (
    bundled_tokenizer,
    load_tokenizer,
    new_lightning_policy,
    save_policy,
)
from sandboxes.bubblewrap import BubblewrapSandbox
from tests.launch.commands import ROOT, call, check_refused
from tests.rewards.conftest import shared_data
from tests.rollout.engines import ARCHITECTURE

MADE_HERE = (
    *("needle", "mr_niah", "mrcr_2", "mrcr_4", "mrcr_8", "latent_list", "counting"),
    *("logic_zebra_puzzles", "logic_knights_knaves", "logic_mini_sudoku", "logic_syllogism"),
    "logic_countdown",
)
IN_A_SANDBOX = ("programs", "swe_toy", "swe")
OF_A_HUB = ("openai_mrcr", "longbench_v2")
OF_SHARED_DATA = (
    *("aime24", "aime25", "amc23", "math500", "gsm8k", "humaneval", "mbpp", "stdio"),
    "mr_niah_published",
)
OF_TAU2 = ("tau2_airline", "tau2_retail", "tau2_telecom")
"""Conversations, which no single answer wins: see tests/rollout/test_conversation.py."""

NO_ANSWER_IS_KNOWN = ("stdio",)
"""Its file has tests and no solutions: a policy cannot be perfect, only wrong."""

MRCR_ROW = {
    "prompt": json.dumps([{"role": "user", "content": "Put Zz9 before the 1st ode to soup."}]),
    "answer": "Zz9O soup, o soup.",
    "random_string_to_prepend": "Zz9",
    "n_needles": 4,
}
LONGBENCH_ROW = {
    "_id": "soup",
    "context": "The soup is red. " * 40,
    "question": "Which colour has the soup?",
    "choice_A": "blue",
    "choice_B": "red",
    "choice_C": "tan",
    "choice_D": "jet",
    "answer": "B",
}


def evaluate(
    sets: Sequence[str], output: Path, *overrides: str, num_tasks: int = 2
) -> dict[str, dict[str, float]]:
    """Evaluate a few problems of each set; return the means by set and metric."""
    ran = call(
        f"evaluation_set=[{','.join(sets)}]",
        f"output={output}",
        *(f"sets.{name}.num_tasks={num_tasks}" for name in sets),
        *overrides,
        command="evaluate",
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads((output / "results.json").read_text())
    for name in sets:
        assert results["sets"][name]["ungraded"] == {}
        assert f"\n{name} " in ran.stdout
    assert (output / "results.png").stat().st_size > 1000
    return {
        name: {metric: value["mean"] for metric, value in one["metrics"].items()}
        for name, one in results["sets"].items()
    }


def check_perfect_and_wrong(sets: Sequence[str], folder: Path, *overrides: str, **how: int) -> None:
    """The perfect policy scores 1 by every metric of every set, the wrong one 0."""
    known = [name for name in sets if name not in NO_ANSWER_IS_KNOWN]
    perfect = evaluate(known, folder / "perfect", "engine=perfect", *overrides, **how)
    assert {name: set(means.values()) for name, means in perfect.items()} == {
        name: {1.0} for name in known
    }
    wrong = evaluate(sets, folder / "wrong", "engine=wrong", *overrides, **how)
    assert {name: set(means.values()) for name, means in wrong.items()} == {
        name: {0.0} for name in sets
    }


def test_no_set_is_left_out_of_these_tests() -> None:
    sets = {path.stem for path in (ROOT / "conf" / "evaluation_set").glob("*.yaml")}
    assert sets == {*MADE_HERE, *IN_A_SANDBOX, *OF_A_HUB, *OF_SHARED_DATA, *OF_TAU2}


def test_a_perfect_policy_scores_one_and_a_wrong_one_zero(tmp_path: Path) -> None:
    rollouts = [f"sets.{name}.num_rollouts=2" for name in MADE_HERE]
    check_perfect_and_wrong(MADE_HERE, tmp_path, *rollouts, num_tasks=1)


def test_so_they_do_on_programs_and_patches(tmp_path: Path) -> None:
    try:
        BubblewrapSandbox()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, programs are untested: {error}")
    instance: Any = SweToyFamily(1, 5)[0].truth["instance"]
    path = tmp_path / "instances.jsonl"
    path.write_text(json.dumps(instance) + "\n")
    check_perfect_and_wrong(IN_A_SANDBOX, tmp_path, f"sets.swe.source.name={path}", num_tasks=1)


def test_so_they_do_on_files_of_the_hub(tmp_path: Path) -> None:
    files = []
    for name, row in zip(OF_A_HUB, (MRCR_ROW, LONGBENCH_ROW), strict=True):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        files.append(f"sets.{name}.source.name={path}")
    check_perfect_and_wrong(OF_A_HUB, tmp_path, *files, num_tasks=1)


def test_so_they_do_on_public_problems(tmp_path: Path) -> None:
    data = shared_data()
    if data is None:
        pytest.skip("NO shared/data ON THIS MACHINE: public sets of problems are untested")
    try:
        BubblewrapSandbox()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, programs are untested: {error}")
    check_perfect_and_wrong(
        OF_SHARED_DATA,
        tmp_path,
        f"data={data}",
        "sets.aime24.num_rollouts=3",
        "sets.aime25.num_rollouts=1",
        "sets.amc23.num_rollouts=1",
        num_tasks=1,
    )


def test_a_second_call_asks_only_what_is_missing(tmp_path: Path) -> None:
    evaluate(["latent_list"], tmp_path, "engine=wrong", num_tasks=3)
    answers = tmp_path / "answers.jsonl"
    first, *others = answers.read_text().splitlines(keepends=True)
    marked = json.loads(first) | {"text": "kept from before"}
    answers.write_text(json.dumps(marked) + "\n" + others[0] + others[1][:30])
    evaluate(["latent_list", "counting"], tmp_path, "engine=wrong", num_tasks=4)
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert rows[0]["text"] == "kept from before"
    assert len(rows) == 8
    assert len({(row["set_name"], row["task_id"]) for row in rows}) == 8


def test_results_are_compared_problem_by_problem(tmp_path: Path) -> None:
    for engine in ("perfect", "wrong"):
        evaluate(["latent_list"], tmp_path / engine, f"engine={engine}", num_tasks=3)
    ran = call(
        f"compare=[{tmp_path / 'perfect'},{tmp_path / 'wrong' / 'results.json'}]",
        f"output={tmp_path}",
        command="evaluate",
    )
    assert ran.returncode == 0, ran.stderr
    assert "perfect - wrong" in ran.stdout
    assert "latent_list avg@1: +1.0000 [+1.0000, +1.0000], p < 0.0005, 3 problems" in ran.stdout
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert found["latent_list"]["avg@1"]["estimate"]["mean"] == 1.0
    assert (tmp_path / "comparison.png").is_file()


def test_answers_of_others_are_judged(tmp_path: Path) -> None:
    problems, answers = tmp_path / "problems.jsonl", tmp_path / "answers.jsonl"
    rows = [{"task_id": n, "problem": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [
        (0, "1"),
        (0, "2"),
        (0, "1"),
        (1, "5"),
        (1, "5"),
        (1, "2"),
        (2, "3"),
        (2, "3"),
        (2, "3"),
    ]
    answers.write_text(
        "".join(json.dumps({"task_id": n, "response": rf"\boxed{{{a}}}"}) + "\n" for n, a in said)
    )
    means = evaluate(
        ["gsm8k"],
        tmp_path / "out",
        f"sets.gsm8k.source.name={problems}",
        f"answers={answers}",
        "sets.gsm8k.num_rollouts=3",
        num_tasks=3,
    )["gsm8k"]
    assert means["avg@3"] == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert means["pass@2"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert means["maj@3"] == pytest.approx((1 + 0 + 1) / 3)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], ("sets", "evaluation_set=[")),
        (["evaluation_set=[needle]"], ("policy.path=null",)),
        (["evaluation_set=[nedle]", "engine=wrong"], ("evaluation_set=[nedle]", "needle")),
        (["evaluation_set=[gsm8k]", "engine=wrong"], ("sets.gsm8k.source.name", "data=FOLDER")),
        (["evaluation_set=[needle]", "engine=endpoint"], ("endpoint.url",)),
        (
            [
                "evaluation_set=[needle]",
                "endpoint.url=http://localhost:9",
                "endpoint.max_attempts=1",
            ],
            ("no answer", "localhost:9", "only what is missing"),
        ),
        (["evaluation_set=[needle]", "engine=oracle"], ("engine=oracle", "perfect")),
        (["evaluation_set=[needle]", "sets.needle.metric=reward"], ("metric=reward", "score")),
        (["evaluation_set=[needle]", "engine=wrong", "sets.needle.num_tasks=null"], ("no end",)),
        (["compare=[a.json]"], ("compare", "two")),
        (["compare=[a.json,b.json]"], ("a.json", "cannot be read")),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    overrides: list[str], words: tuple[str, ...], tmp_path: Path
) -> None:
    check_refused(call(*overrides, f"output={tmp_path}", command="evaluate"), *words)


def test_a_policy_folder_is_evaluated_in_this_process(tmp_path: Path) -> None:
    folder = tmp_path / "little"
    policy = new_lightning_policy(ARCHITECTURE, "bpe1024", seed=0)
    save_policy(policy, load_tokenizer(str(bundled_tokenizer("bpe1024"))), folder)
    for output in ("once", "again"):
        evaluate(
            ["latent_list"],
            tmp_path / output,
            f"policy.path={folder}",
            "sets.latent_list.source.options.tokens=150",
            "sets.latent_list.num_rollouts=2",
            "sets.latent_list.max_new_tokens=6",
        )
    rows = [json.loads(line) for line in (tmp_path / "once" / "answers.jsonl").open()]
    again = [json.loads(line) for line in (tmp_path / "again" / "answers.jsonl").open()]
    assert len(rows) == 4
    assert all(1 <= row["num_tokens"] <= 6 and row["num_prompt_tokens"] > 100 for row in rows)
    for weights in folder.glob("*.safetensors"):
        os.utime(weights, (0, 0))
    check_refused(
        call(
            "evaluation_set=[latent_list]",
            f"policy.path={folder}",
            f"output={tmp_path / 'once'}",
            command="evaluate",
        ),
        "holds answers of asked=",
        "overwrite=true",
    )
    key = lambda row: (row["task_id"], row["member"])  # noqa: E731
    assert sorted(rows, key=key) == sorted(again, key=key)


@contextmanager
def endpoint(asked: list[dict[str, Any]]) -> Iterator[str]:
    """A server that answers everything with the same text, after refusing the first request."""

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.json())
        if len(asked) == 1:
            return web.Response(status=503)
        message = {"role": "assistant", "content": "<answer>[]</answer>"}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        usage = {"completion_tokens": 11, "prompt_tokens": 222}
        return web.json_response({"choices": [choice], "usage": usage})

    async def run(listener: socket.socket) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await stop.wait()
        await runner.cleanup()

    listener = socket.create_server(("127.0.0.1", 0))
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run(listener)))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_a_model_behind_an_endpoint_is_asked_as_configured(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    with endpoint(asked) as url:
        means = evaluate(
            ["latent_list"],
            tmp_path,
            f"endpoint.url={url}",
            "endpoint.model=little",
            "sets.latent_list.max_new_tokens=64",
            "sampling.temperature=0.5",
        )
    assert set(means["latent_list"].values()) == {0.0}
    assert len(asked) == 3
    assert {body["model"] for body in asked} == {"little"}
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in asked} == {
        (0.5, 0.95, 64)
    }
    assert "top_k" not in asked[0]
    assert len({body["seed"] for body in asked}) == 2
    row = json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])
    assert (row["num_tokens"], row["num_prompt_tokens"]) == (11, 222)
    assert row["stop_reason"] == "length"
