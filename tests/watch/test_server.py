import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from cispo.tracking.jsonl import JsonlTracker
from cispo.watch.run_view import RunView
from cispo.watch.server import watch_app
from tests.fakes import make_group
from tests.watch.runs import small_run, write_rollouts

Client = TestClient[Request, Application]
HOSTILE = "</script><img src=x onerror=alert(1)>"
FILE = "iteration_000002.jsonl.gz"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return small_run(folder)


@pytest.fixture
async def client(run: Path) -> AsyncIterator[Client]:
    view = RunView(run)
    view.refresh()
    async with TestClient(TestServer(watch_app(view, refresh_seconds=0.01))) as client:
        yield client


async def text_of(client: Client, address: str, **headers: str) -> tuple[int, str]:
    async with client.get(address, headers=headers) as response:
        return response.status, await response.text()


async def test_the_page_is_made_of_its_own_files_alone(client: Client) -> None:
    for address, kind in (("/", "text/html"), ("/main.js", "text/javascript")):
        async with client.get(address) as response:
            assert response.status == 200
            assert response.content_type == kind
            assert "default-src 'none'; script-src 'self'" in header(
                response, "Content-Security-Policy"
            )
            assert header(response, "X-Content-Type-Options") == "nosniff"
            assert "//" not in (await response.text()).replace("// ", "").replace(
                "http://www.w3.org/2000/svg", ""
            )


def header(response: ClientResponse, name: str) -> str:
    return response.headers[name]


async def test_no_script_of_the_page_ever_parses_html() -> None:
    folder = Path(__file__).parents[2] / "cispo" / "watch" / "page"
    scripts = list(folder.glob("*.js"))
    assert len(scripts) == 6
    for script in scripts:
        text = script.read_text()
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way not in text, script


async def test_the_run_is_summed_up_with_what_can_be_filtered_by(client: Client) -> None:
    run = await (await client.get("/api/run")).json()
    assert (run["name"], run["last_step"], run["iterations"]) == ("small", 3, 3)
    assert run["is_over"]
    assert run["health"]["headline"].startswith("Healthy: reward 0.25 → 0.75")
    assert run["rollouts"]["num"] == 15
    assert run["rollouts"]["steps"] == {"iteration": [1, 2, 3], "heldout": []}
    assert run["rollouts"]["sources"] == ["logic", "sums"]


async def test_curves_groups_and_rollouts_are_told(client: Client) -> None:
    curves = await (await client.get("/api/curves")).json()
    reward = next(panel for panel in curves["panels"] if panel["title"] == "Reward")
    assert reward["lines"][0]["steps"] == [1, 2, 3]
    assert reward["lines"][0]["values"] == [0.25, 0.5, 0.75]
    groups = await (await client.get(f"/api/groups?file={FILE}")).json()
    first, second = groups["groups"]
    assert (first["group"], first["source"], first["dropped"]) == (4, "sums", False)
    assert [member["correct"] for member in first["members"]] == [1.0, 0.0, None]
    assert second["dropped"]
    found = await (await client.get("/api/rollouts?verdict=right&order=longest&limit=2")).json()
    assert found["total"] == 3
    assert len(found["rollouts"]) == 2
    told = await (await client.get(f"/api/rollout?file={FILE}&row=0")).json()
    assert [member["row"] for member in told["members"]] == [0, 1, 2]
    rollout = told["rollout"]
    assert rollout["advantage"] == 1.0
    assert rollout["tokens"]["pieces"] == ["⟨2⟩", "⟨3⟩", "⟨4⟩"]
    assert rollout["tokens"]["logprobs"] == [-0.5] * 3
    assert rollout["tokens"]["ratios"] == [pytest.approx(1.284)] * 3  # exp(-0.25 + 0.5)


async def test_a_run_without_a_timeline_shows_phases_one_after_another(client: Client) -> None:
    lanes = await (await client.get("/api/lanes?last=2&count=2")).json()
    assert not lanes["is_recorded"]
    assert lanes["lanes"]["loop/sample"] == [[0.0, 1.0], [3.0, 4.0]]
    assert lanes["lanes"]["learner"] == [[1.0, 3.0], [4.0, 6.0]]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/api/rollout?file=../metrics.jsonl&row=0", 404),
        ("/api/rollout?file=/etc/passwd&row=0", 404),
        ("/api/rollout?file=..%2f..%2fsecret_000001.jsonl.gz&row=0", 404),
        ("/api/groups?file=rollouts%2F" + FILE, 404),
        (f"/api/rollout?file={FILE}&row=5", 400),
        (f"/api/rollout?file={FILE}&row=-1", 400),
        (f"/api/rollout?file={FILE}&row=1e3", 400),
        (f"/api/rollout?file={FILE}", 400),
        ("/api/rollouts?limit=100000", 400),
        ("/api/rollouts?order=drop%20table", 400),
        ("/api/rollouts?reward_min=" + HOSTILE, 400),
        ("/api/lanes?last=9&count=1000", 400),
        ("/../config.yaml", 404),
        ("/..%2f..%2fconfig.yaml", 404),
        ("/config.yaml", 404),
        ("/api/nothing", 404),
    ],
)
async def test_what_is_not_of_the_run_or_no_question_is_refused(
    client: Client, run: Path, address: str, status: int
) -> None:
    (run.parent / "secret_000001.jsonl.gz").write_text("secret")
    code, text = await text_of(client, address)
    assert code == status
    assert "secret" not in text.replace("secret_000001", "")
    assert "iterations:" not in text
    async with client.get(address) as response:
        assert response.content_type != "text/html"


async def test_only_pages_of_this_machine_are_answered(client: Client) -> None:
    for host in ("localhost:8321", "127.0.0.1", "127.0.0.1:1", "[::1]:8321"):
        assert (await text_of(client, "/api/run", Host=host))[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example:8321", "localhost.evil", "10.0.0.1:80"):
        assert (await text_of(client, "/api/run", Host=host))[0] == 403


async def test_nothing_can_be_written(client: Client) -> None:
    for method in (client.post, client.put, client.delete):
        async with method("/api/run") as response:
            assert response.status == 405


async def test_what_a_model_wrote_comes_as_data_and_never_as_a_page(
    client: Client, run: Path
) -> None:
    group = make_group([1.0], index=50, source=HOSTILE)
    object.__setattr__(group.rollouts[0], "text", HOSTILE)
    write_rollouts(run, 4, [group])
    await until(client, lambda told: told["rollouts"]["num"] == 16)
    address = "/api/rollout?file=iteration_000004.jsonl.gz&row=0"
    for path in (address, "/api/rollouts", "/api/run"):
        async with client.get(path) as response:
            assert response.content_type == "application/json"
            assert header(response, "X-Content-Type-Options") == "nosniff"
    told = await (await client.get(address)).json()
    assert told["rollout"]["response"] == told["rollout"]["source"] == HOSTILE


async def test_a_run_is_followed_while_it_goes_on_and_where_a_resume_shortens_it(
    client: Client, run: Path
) -> None:
    tracker = JsonlTracker(run / "metrics.jsonl", keep_through=3)
    tracker.log(4, {"reward/mean": float("nan")})
    told = await until(client, lambda told: told["last_step"] == 4)
    assert told["is_over"]  # it was to have three iterations
    assert told["health"]["findings"][0]["metric"] == "reward/mean"
    curves = await (await client.get("/api/curves")).json()
    reward = next(panel for panel in curves["panels"] if panel["title"] == "Reward")
    assert reward["lines"][0]["values"] == [0.25, 0.5, 0.75, None]
    tracker.finish({})
    JsonlTracker(run / "metrics.jsonl", keep_through=1).finish({})
    told = await until(client, lambda told: told["last_step"] == 1)
    assert not told["is_over"]
    (run / "summary.json").write_text("{}")
    os.utime(run / "metrics.jsonl", (1, 1))
    told = await until(client, lambda told: told["is_over"])
    assert "the run ended after 1 of 3 iterations" in told["health"]["headline"]


async def until(client: Client, holds: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(60):
        while True:
            told = await (await client.get("/api/run")).json()
            if holds(told):
                return told
            await asyncio.sleep(0.01)
