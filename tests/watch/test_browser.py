"""The watch page in a real Chromium, where there is one on PATH."""

from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from cispo.watch.run_view import RunView
from cispo.watch.server import watch_app
from tests.browser import Tab, browser_tab, chromium
from tests.fakes import make_group
from tests.watch.runs import lessons_of, small_run, write_rollouts

pytestmark = pytest.mark.skipif(
    chromium() is None,
    reason="NO BROWSER: put chromium on PATH to test the watch page (apt-get install chromium)",
)

HOSTILE = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


def hostile_run(folder: Path) -> Path:
    """A run in which everything that a model or a task can write is an attack."""
    small_run(folder)
    (folder / "config.yaml").write_text(f"name: {HOSTILE}\niterations: 4\n")
    group = make_group([1.0, 0.0], index=99, source=HOSTILE)
    for rollout in group.rollouts:
        object.__setattr__(rollout, "text", HOSTILE)
    for name in ("task_id", "verifier"):
        object.__setattr__(group.task, name, HOSTILE)
    for message in group.task.messages:
        object.__setattr__(message, "content", HOSTILE)
    object.__setattr__(group.verdicts[0], "parts", {"correct": 1.0, HOSTILE: 0.5})
    write_rollouts(folder, 4, [group], lessons=lessons_of(group, -0.1))
    return folder


async def look_at_all(tab: Tab, address: str) -> None:
    """Go through all views; each must show what it is for."""
    await tab.open(address)
    await tab.until("document.querySelectorAll('.panel svg path').length >= 2")
    assert "Healthy" in await tab.run("document.getElementById('health').textContent")
    await tab.run("location.hash = 'lanes'")
    await tab.until("document.querySelectorAll('.lanes rect').length >= 4")
    await tab.run("location.hash = 'rollouts'")
    await tab.until("document.querySelectorAll('td .square').length == 2")
    await tab.run(
        "[...document.querySelectorAll('button')].find(b => b.textContent[0] == 'S').click()"
    )
    await tab.until("document.querySelectorAll('tr.link').length == 17")
    await tab.run(
        "(box => { box.value = 'onerror'; box.dispatchEvent(new Event('input')); })"
        "(document.querySelector('input[type=search]'))"
    )
    await tab.until("document.querySelectorAll('tr.link').length == 2")
    await tab.run("document.querySelector('tr.link').click()")
    await tab.until("document.querySelectorAll('.token').length == 3")
    for mode in ("ratio", "advantage × ratio", "log-probability"):
        await tab.run(
            f"[...document.querySelectorAll('button')].find(b => b.textContent == '{mode}').click()"
        )
        coloured = "[...document.querySelectorAll('.token')].every(t => t.style.background)"
        assert await tab.run(coloured), mode


async def test_every_view_works_and_nothing_that_a_model_wrote_is_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    view = RunView(hostile_run(run))
    view.refresh()
    async with (
        TestServer(watch_app(view), host="127.0.0.1") as server,
        browser_tab(tmp_path / "profile") as tab,
    ):
        await look_at_all(tab, str(server.make_url("/")))
        shown = await tab.run("document.body.textContent")
        assert shown.count("onerror") >= 5
        assert await tab.run("window.hacked === undefined")
        assert await tab.run("document.querySelectorAll('img, main script').length == 0")
        assert tab.errors == []
        assert all(url.startswith((str(server.make_url("/")), "data:,")) for url in tab.requests)
