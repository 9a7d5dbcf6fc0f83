"""The served command: refused in one line where it cannot work, one line when it can."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

from cispo.policy.load import (
    bundled_tokenizer,
    load_tokenizer,
    new_lightning_policy,
    save_policy,
)
from tests.launch.commands import ROOT, call, check_refused, launch
from tests.rollout.engines import ARCHITECTURE


@pytest.fixture
def policy_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "little"
    policy = new_lightning_policy(ARCHITECTURE, "bpe1024", seed=0)
    save_policy(policy, load_tokenizer(str(bundled_tokenizer("bpe1024"))), folder)
    return folder


def test_what_cannot_be_served_is_refused(policy_folder: Path) -> None:
    path = f"policy.path={policy_folder}"
    check_refused(launch(path, "prot=1", command="serve"), "prot: no such key", "port?")
    check_refused(call(path, "port=70000", command="serve"), "port=70000", "0..65535")
    check_refused(call(command="serve"), "policy.path=null")
    refused = call(path, "api_key=sk-secret", command="serve")
    check_refused(refused, "api_key", "no environment variable")
    assert "sk-secret" not in refused.stderr
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        check_refused(call(path, f"port={port}", command="serve"), f"port={port}", "in use")


def test_a_chat_needs_a_template(policy_folder: Path) -> None:
    (policy_folder / "chat_template.jinja").unlink()
    ran = call(f"policy.path={policy_folder}", "port=0", command="serve")
    check_refused(ran, "chat=true", "chat_template.jinja", "chat=false")


def test_a_server_says_when_it_is_ready_answers_and_stops(tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"*": ["It is 42."]}))
    command = [sys.executable, "-m", "launch.serve", "rollout.backend=scripted", "port=0"]
    command += [f"policy.path={answers}", "name=oracle", "api_key=SERVE_KEY"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SERVE_KEY": "sesame"}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        greeting = server.stdout.readline()
        url = re.search(r"serving oracle at (http://127\.0\.0\.1:\d+/v1) ", greeting)
        assert url, greeting
        assert f"curl {url[1]}/chat/completions" in greeting
        assert "sesame" not in greeting
        client = OpenAI(base_url=url[1], api_key="sesame", max_retries=0, timeout=120)
        answer = client.chat.completions.create(
            model="oracle", messages=[{"role": "user", "content": "What is 6 times 7?"}]
        )
        assert answer.choices[0].message.content == "It is 42."
        example = json.loads(shlex.split(greeting)[-1])
        tried = client.chat.completions.create(**example)
        assert tried.choices[0].message.content == "It is 42."
        server.send_signal(signal.SIGTERM)
        rest = server.stdout.read()
        assert server.wait(120) == 0, rest
        assert rest == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["answers.json"]
