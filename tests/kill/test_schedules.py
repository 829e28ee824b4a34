# SPDX-License-Identifier: Apache-2.0
"""The supervisor takes the snapshots that schedules ask for, whoever is killed meanwhile."""
import os
import signal
import time

from support import wait_until

pytest_plugins = ["kill_fixtures"]
SOON = "[supervisor]\nschedule_s = 1\n"


def taken(instance, name="v"):
    return [row["name"] for row in instance.vlmc_json("list") if row["name"].startswith(name + "@")]


def schedule(instance, rule, name="v"):
    """Sets one and takes nothing: that is left to the supervisor."""
    instance.client.control("schedule", name=name, rule=rule)


def test_what_is_due_is_taken_after_deaths_of_the_mapper_and_another_supervisors_birth(supervised):
    instance = supervised(SOON, patient=False)
    instance.vlmc("create", "v", "--size", "1M")
    schedule(instance, "daily=24 monthly=2")
    os.kill(instance.status()["mapper"]["pid"], signal.SIGKILL)
    instance.archipelago("restart", "--supervisor")
    wait_until(lambda: len(taken(instance)) >= 2, "both are taken")
    for name in taken(instance):
        instance.vlmc("remove", name)
    instance.archipelago("restart", "--supervisor")     # which remembers nothing
    wait_until(lambda: len(taken(instance)) >= 2, "both are taken again")


def test_a_time_that_was_missed_is_made_up_when_the_instance_runs_again(supervised):
    instance = supervised(SOON, patient=False)
    instance.vlmc("create", "v", "--size", "1M")
    instance.archipelago("stop")
    instance.archipelago("start")
    schedule(instance, "monthly=1")
    instance.archipelago("restart", "--supervisor")
    wait_until(lambda: len(taken(instance)) >= 1, "it is taken")


def test_a_pipeline_ends_in_order_amid_a_round(supervised):
    """The round waits for a store that takes its time."""
    instance = supervised(SOON + '[routes]\n"mapper>blockerm" = "slow"\n[peers.slow]\ntype = "delay"\n'
                          'target = "blockerm"\nms = 300\n', patient=False)
    instance.vlmc("create", "v", "--size", "1M")
    schedule(instance, "monthly=1")
    instance.archipelago("restart", "--supervisor")
    time.sleep(1.3)
    instance.archipelago("stop")
