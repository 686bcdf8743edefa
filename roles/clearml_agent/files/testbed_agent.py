"""Runs clearml-agent, which takes no task while its worker is drained; the arguments are clearml-agent's.

The open-source server has no switch for a single worker (`workers.set_runtime_properties` is not there), and an agent
that is stopped at the wrong moment loses the task that it has just taken. So the order is asked for where the agent
decides: before each look into a queue, and never while it runs a task.

The worker is drained while /etc/testbed/drained/<service> is there, or, as keys are replaced, rotation.<service>. That
the agent has seen it, and so runs nothing and will take nothing, it says with the file `drained` in its folder for
temporary files, with the same text.
"""

import os
import sys
from pathlib import Path

ORDERS = Path("/etc/testbed/drained")


def order_of(path):
    """Return the text of the order to take no task, or None where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:  # better no task than one on a host that is to be switched off
        return f"unreadable: {error}"


class Turn:
    """Decides before each look into a queue, and says so when that changes."""

    def __init__(self, orders, answer):
        """Read orders from the files `orders`, of which the first counts that is there; answer in the file `answer`."""
        self.orders = orders
        self.answer = answer
        self.said = None

    def takes_tasks(self):
        """Return whether the agent may take a task now."""
        order = next((order for order in map(order_of, self.orders) if order is not None), None)
        if order != self.said:
            try:
                self.say(order)
            except OSError as error:  # a full disk: the order holds all the same
                print(f"Cannot answer in {self.answer}: {error}")
        return order is None

    def say(self, order):
        """Answer an order that is new, or take the answer back."""
        if order is None:
            if self.answer.exists():
                self.answer.unlink()
            print("Undrained: takes tasks again")
        else:
            half = self.answer.with_name(self.answer.name + ".half")
            half.write_text(order)
            half.replace(self.answer)
            print("Drained: takes no task until it is undrained")
        self.said = order


def have_asked(worker, turn):
    """Have `turn` asked by the agent's class `worker` wherever it decides whether to look into a queue."""
    decide = worker.should_be_currently_active  # of its own: working hours
    worker.should_be_currently_active = lambda *arguments: turn.takes_tasks() and decide(*arguments)


def main():
    """Run as clearml-agent does."""
    from clearml_agent.__main__ import main as clearml_agent
    from clearml_agent.commands.worker import Worker

    service = os.environ["TESTBED_SERVICE"]
    have_asked(Worker, Turn([ORDERS / service, ORDERS / f"rotation.{service}"], Path(os.environ["TMPDIR"], "drained")))
    sys.exit(clearml_agent())


if __name__ == "__main__":
    main()
