"""Models and data sets from the hub: fetched once, afterwards read from the cache without a connection.

A snapshot is fetched before anything is loaded, and loaded as a folder. Left to themselves the libraries
ask the hub even for what is cached, and try again for 23 s where it refuses, for minutes where it is silent.
"""

import os
import queue
import threading
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from utils.checks import DISK_FAULTS

PATIENCE = 8  # seconds that the hub has for its first answer, the look-up of its name included
NEEDED = ("config.json", "tokenizer*", "*.safetensors")  # of a model
FILES = {"model": ["*.json", "*.safetensors", "*.model", "*.txt"], "dataset": ["*.csv"]}  # no pickles, no code


class HubError(RuntimeError):
    """Something cannot be fetched from the hub; the message says what, why and what to do."""


def fetch(name: str, key: str = "model", needed: tuple[str, ...] = NEEDED) -> Path:
    """The folder of a model or data set: `name` itself where it is one, else its snapshot in the hub's
    cache, downloaded where one of the `needed` files (patterns) is not there yet.

    `name` may end in @ and a revision (branch, tag, commit; "main" by default). `key` is the
    profile's entry: "dialogues" is a data set, the others are models. Raises HubError within 10 s
    where the hub does not answer.
    """
    if Path(name).is_dir():
        return Path(name)
    repo, _, revision = name.partition("@")
    revision = revision or constants.DEFAULT_REVISION
    kind = "dataset" if key == "dialogues" else "model"
    what = {"repo_id": repo, "repo_type": kind, "revision": revision}
    try:
        folder = Path(snapshot_download(**what, allow_patterns=FILES[kind], local_files_only=True))
        if all(any(folder.glob(pattern)) for pattern in needed):
            return folder
    except LocalEntryNotFoundError:
        pass  # not there, or not all of it
    except ValueError as error:  # not a name that the hub could have
        raise HubError(f"{name!r} is neither a folder nor a name on the hub: {error}") from None
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("the profile's network = false, or HF_HUB_OFFLINE, forbids a connection")
        within(PATIENCE, lambda: HfApi().repo_info(**what, timeout=PATIENCE))
        return Path(snapshot_download(**what, allow_patterns=FILES[kind]))
    except RevisionNotFoundError:
        raise HubError(f"{repo} has no revision {revision!r}: correct {key}_revision in labs/profiles.toml") from None
    except RepositoryNotFoundError:
        raise HubError(f"{constants.ENDPOINT} has no {kind} {repo}, or asks for a login (hf auth login): correct "
                       f"{key} in labs/profiles.toml") from None
    except Exception as error:  # whichever of the libraries underneath
        if getattr(error, "errno", None) in DISK_FAULTS:
            raise HubError(f"{repo} cannot be stored in {constants.HF_HUB_CACHE}: {os.strerror(error.errno)}; set "
                           "HF_HOME to a folder of yours on a disk with room") from None
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        profile = os.environ.get("LAB_PROFILE") or "tiny"
        raise HubError(f"profile {profile}: cannot fetch the {kind} {repo} (revision {revision}) from "
                       f"{constants.ENDPOINT}: {reason}. Two ways out: LAB_PROFILE=tiny, which needs no network, or "
                       f"HF_HOME=<a cache that holds it> (now {constants.HF_HOME})") from None


def within(seconds: float, call):
    """The call's result. Raises what it raises, and TimeoutError when time is up; the call is then left
    behind in its thread, since nothing stops a look-up of a name."""
    answer = queue.SimpleQueue()

    def work():
        try:
            answer.put((call(), None))
        except Exception as error:
            answer.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    if error:
        raise error
    return result
