"""Calls of `linguarec.hub`, as a script for `killing.Killer`.

hub_calls.py ADDRESS TOKEN push RUN REPOSITORY
hub_calls.py ADDRESS TOKEN open REPOSITORY REVISION FINGERPRINT CACHE
"""

import sys

import huggingface_hub.constants

from linguarec.hub import from_pretrained, push_to_hub

huggingface_hub.constants.HF_HUB_OFFLINE = False
address, token, what, *given = sys.argv[1:]
if what == "push":
    run, repository = given
    push_to_hub(run, repository, token=token, endpoint=address)
else:
    repository, revision, fingerprint, cache = given
    from_pretrained(repository, revision, fingerprint, token, cache, address)
