"""The commands: their place in the help, what they say of themselves, and what runs them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from envmesh_cli import command_arguments

__all__ = ["COMMANDS", "STATUSES", "TARGETS", "Command"]

TARGETS = """\
A TARGET names an environment's code:
  module:Class, file.py:Class      a Gymnasium-style class with reset and step
  module:Class?start=5             the same, made with arguments
  gymnasium:CartPole-v1            any id that Gymnasium knows
  reasoning_gym:chain_sum          a data set of reasoning_gym, with verified rewards
  textarena:TicTacToe-v0           a game for several agents
  pettingzoo:classic.connect_four_v3
NAME=TARGET names it: cartpole=gymnasium:CartPole-v1, or with a version cartpole@2=…"""

STATUSES = """\
Exit status: 0 all went well; 1 something failed (an episode, a check, a host, a port);
2 the command line, a target, a name or a setting is wrong; 130 interrupted."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: where it stands in the help, what it says, and what runs it."""

    group: str
    usage: str
    summary: str
    handler: str
    """module:function; the function takes the parsed arguments and returns the exit status."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    description: str


_HOSTING, _LOOKING, _JUDGING = "Host environments", "Look at a mesh", "Play, measure, judge"

COMMANDS: dict[str, Command] = {
    "serve": Command(
        _HOSTING,
        "[NAME=]TARGET … [options]",
        "serve environments from one host",
        "envmesh_cli.serve:serve",
        command_arguments.serve,
        "One process that serves environments, complete by itself: trainers connect to it directly. With --broker\n"
        "it joins a mesh instead. Everything is checked before the port opens. Ctrl-C drains: no new episode begins,\n"
        "running ones may end; a second Ctrl-C ends at once.\n\n"
        "  envmesh serve countdown:Countdown\n"
        "  envmesh serve cartpole=gymnasium:CartPole-v1 taxi=gymnasium:Taxi-v3 --listen 127.0.0.1:7071\n"
        "  envmesh serve my_env.py --isolation thread --slots 256\n\n"
        f"{TARGETS}\n\nEvery other setting is a variable ENVMESH_HOST_…; a wrong one is told with what would be right.",
    ),
    "up": Command(
        _HOSTING,
        "[NAME=]TARGET … [--pool NAME[:HOSTS] [NAME=]TARGET …] [options]",
        "a local mesh: a broker, and pools of hosts",
        "envmesh_cli.up:up",
        command_arguments.up,
        "A broker and its hosts as processes of this machine, restarted when they die. Every target is a pool of its\n"
        "own; --pool puts several environments into one. Ctrl-C drains, a second one ends at once; nothing is left.\n\n"
        "  envmesh up cartpole=gymnasium:CartPole-v1 reasoning_gym:chain_sum --hosts 2\n"
        "  envmesh up --pool control:3 cartpole=gymnasium:CartPole-v1 acrobot=gymnasium:Acrobot-v1 \\\n"
        "             --pool games:1 tictactoe=textarena:TicTacToe-v0\n\n"
        f"{TARGETS}",
    ),
    "build": Command(
        _HOSTING,
        "[NAME=]TARGET … [options]",
        "the Dockerfile of an image that serves your environments",
        "envmesh_cli.author_image:build",
        command_arguments.build,
        "Writes a Dockerfile that puts your code and its packages on top of envmesh's own image: for each target the\n"
        "module's file or package of this directory, and with --requirements what pip shall install. It is yours to\n"
        "change. A target that cannot be loaded fails the image's build.\n\n"
        "  envmesh build walk@1=walks:Walk --requirements requirements.txt\n"
        "  docker build -t registry.example.org/walks:7 .",
    ),
    "keys": Command(
        _HOSTING,
        "DIRECTORY | --secrets NAMESPACE [options]",
        "certificates, keys and a trainer's token, made once",
        "envmesh_cli.keys:keys",
        command_arguments.keys,
        "A private authority, certificates for broker, hosts and autoscaler, the keys that sign leases and seal\n"
        "checkpoints, and one trainer's token with the file that knows its hash. What is there stays as it is; only\n"
        "what is missing is made. Nothing secret is printed.\n\n"
        "  envmesh keys ./keys\n"
        "  envmesh serve countdown:Countdown --keys ./keys --listen 0.0.0.0:7070\n"
        "  envmesh keys ./keys --rotate lease-keys              a new key first, the old one still counts\n"
        "  envmesh keys --secrets rl --prefix envmesh --broker-name envmesh-broker.rl.svc --renew 90d",
    ),
    "autoscale": Command(
        _HOSTING,
        "[options]",
        "the autoscaler of a mesh on Kubernetes",
        "envmesh_cli.autoscale:autoscale",
        command_arguments.autoscale,
        "Scales the Deployments of a mesh's pools, as the pools file says. Several may run: one leads. All else is\n"
        "a variable ENVMESH_AUTOSCALER_…; a wrong one is told with what would be right. On one machine,\n"
        "`envmesh up --autoscale` does the same with processes.\n\n"
        "  envmesh autoscale --broker broker:7071 --pools pools.json --namespace rl --dry-run",
    ),
    "envs": Command(
        _LOOKING,
        "[options]",
        "the environments of a mesh",
        "envmesh_cli.catalogue:envs",
        command_arguments.envs,
        "  envmesh envs\n  envmesh envs --mesh mesh.example.org:7070 --tls --json",
    ),
    "describe": Command(
        _LOOKING,
        "NAME [options]",
        "one environment: spaces, promises, limits, tasks",
        "envmesh_cli.catalogue:describe",
        command_arguments.describe,
        "  envmesh describe cartpole\n  envmesh describe cartpole@1 --json",
    ),
    "top": Command(
        _LOOKING,
        "[options]",
        "live view of pools, hosts, slots and rates",
        "envmesh_cli.top:top",
        command_arguments.top,
        "  envmesh top\n  envmesh top --once --json",
    ),
    "run": Command(
        _JUDGING,
        "NAME|TARGET [options]",
        "play episodes, and see how it went",
        "envmesh_cli.run:run",
        command_arguments.run,
        "Plays episodes with a random or given policy, shows progress, then a table of rates, latencies, rewards and\n"
        "failures. Exit status 1 when an episode failed. A NAME is looked for in a mesh; a TARGET gets a host of its\n"
        "own for as long as this runs (unless --mesh is given).\n\n"
        "  envmesh run cartpole --episodes 10000 --concurrency 1000\n"
        "  envmesh run gymnasium:CartPole-v1 --policy my_policy.py:act --record run.jsonl\n"
        "  envmesh run countdown:Countdown --episodes 20 --json",
    ),
    "bench": Command(
        _JUDGING,
        "[NAME|TARGET] [options]",
        "how many steps a second, and how late",
        "envmesh_cli.bench:bench",
        command_arguments.bench,
        "A quick measure at several concurrencies, of an environment in a mesh, of a target, or (with neither) of an\n"
        "echo environment on a local host, every observation verified. The full benchmark is `make bench`.\n\n"
        "  envmesh bench\n  envmesh bench cartpole --concurrency 64 512 --seconds 5",
    ),
    "check": Command(
        _JUDGING,
        "[NAME=]TARGET [options]",
        "judge an environment before anyone trains on it",
        "envmesh_cli.checking:check",
        command_arguments.check,
        "Are the spaces what is really observed? Does the same seed give the same episode? Is what it declares true?\n"
        "What could it declare, and what would that gain? Exit status 1 when something is wrong.\n\n"
        "  envmesh check countdown:Countdown\n  envmesh check gymnasium:CartPole-v1 --json",
    ),
    "replay": Command(
        _JUDGING,
        "FILE [options]",
        "repeat a recording, and show the first difference",
        "envmesh_cli.replaying:replay",
        command_arguments.replay,
        "Plays the recorded actions again with the recorded seeds and compares every outcome. Exit status 1 when one\n"
        "differs.\n\n"
        "  envmesh run cartpole --record run.jsonl\n  envmesh replay run.jsonl\n"
        "  envmesh replay run.jsonl --host              with a host of its own",
    ),
    "report": Command(
        _JUDGING,
        "FILE [options]",
        "one page of a recording, to look at and to send around",
        "envmesh_cli.report.command:report",
        command_arguments.report,
        "Latencies, rewards, outcomes, hosts and resumes, and the slowest episodes with their steps, in one HTML file\n"
        "that loads nothing from elsewhere. --metrics adds what the processes themselves measured.\n\n"
        "  envmesh run cartpole --record run.jsonl\n  envmesh report run.jsonl\n"
        "  envmesh report run.jsonl --metrics http://127.0.0.1:9464/metrics --output page.html",
    ),
    "guard": Command(
        _LOOKING,
        "upgrade|uninstall [options]",
        "would this end episodes? (the chart's own check)",
        "envmesh_cli.guard:guard",
        command_arguments.guard,
        "Exit status 1 when episodes live that the change would end. Before an upgrade: those of pools that are not\n"
        "named by --keep. Before an uninstallation: all.\n\n"
        "  envmesh guard upgrade --keep cartpole --keep taxi\n  envmesh guard uninstall --json",
    ),
    "version": Command(
        _LOOKING,
        "[--json]",
        "the versions of envmesh and what it stands on",
        "envmesh_cli.version:version",
        command_arguments.version,
        "",
    ),
}
