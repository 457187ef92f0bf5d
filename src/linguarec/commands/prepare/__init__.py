"""Prepare: a log and a catalogue, from their source files to a prepared dataset folder. One file for each kind of source."""

from linguarec.commands.prepare.amazon import prepare_amazon
from linguarec.commands.prepare.append import prepare_append
from linguarec.commands.prepare.atomic import prepare_atomic
from linguarec.commands.prepare.online_retail import prepare_online_retail
from linguarec.commands.prepare.recformer import prepare_recformer
from linguarec.commands.prepare.table import prepare_table

__all__ = [
    "prepare_amazon",
    "prepare_append",
    "prepare_atomic",
    "prepare_online_retail",
    "prepare_recformer",
    "prepare_table",
]
