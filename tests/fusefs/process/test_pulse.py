# SPDX-License-Identifier: Apache-2.0
"""The words that a worker says through its eventfd."""

from __future__ import annotations

import os

from fusefs.process import pulse


def test_a_worker_may_not_outgrow_the_words_of_its_pulse() -> None:
    """A thousand hours of beats that nobody reads are no other word."""
    assert pulse.READY > 1000 * 3600
    heard = pulse.make_pulse()
    try:
        for word in (pulse.BEAT, pulse.BEAT, pulse.READY, pulse.HANDED_OVER):
            pulse.say(heard, word)
        words = pulse.hear(heard)
        assert pulse.heard(words, pulse.READY)
        assert pulse.heard(words, pulse.HANDED_OVER)
        assert not pulse.heard(words, pulse.OVER)
        assert pulse.hear(heard) == 0
    finally:
        os.close(heard)
