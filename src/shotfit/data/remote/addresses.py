"""Addresses of what lies elsewhere: `s3://bucket/photos/1.jpg`, `https://host/shards/0003.tar`.

    address = address_of("https://me:secret@host/a.jpg?X-Amz-Signature=...")
    str(address)                # "https://host/a.jpg": what people and files are shown

An address is fetched under one of PROTOCOLS and no other, so a line of a list can neither name a file of this machine
(`file://`), nor chain file systems (`simplecache::...`), nor log in anywhere (`ssh://`). What is shown of it has no
user, no password and no signature. Of a query there is a digest, so that two pictures keep two names.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote

from shotfit.errors import ShotfitError

__all__ = ["PROTOCOLS", "WEB", "Address", "address_of", "check_address", "is_address", "only_here", "without_secrets"]

WEB = ("http", "https")
PROTOCOLS: dict[str, str] = {
    "s3": "'shotfit[remote]'",
    "s3a": "'shotfit[remote]'",
    "http": "'shotfit[remote]'",
    "https": "'shotfit[remote]'",
    "hf": "'shotfit[remote]'",
    "gs": "'shotfit[remote]' gcsfs",
    "gcs": "'shotfit[remote]' gcsfs",
    "az": "'shotfit[remote]' adlfs",
    "abfs": "'shotfit[remote]' adlfs",
    "abfss": "'shotfit[remote]' adlfs",
}
"""What is fetched, and what to install for it."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_SECRETS = re.compile(
    r"x-(?:amz|goog|oss|cos)-.*|.*(?:signature|token|secret|credential|password|expires).*|sig|key|api[-_]?key|policy"
    r"|key-pair-id|awsaccesskeyid|googleaccessid|ossaccesskeyid|auth|hmac|hash|se|sp|sv|sr|st|spr|sks|ske|skt|skv"
    r"|skoid|sktid|sip|srt|ss",
    re.IGNORECASE,
)
"""Parameters of signed queries: those of AWS, Google, Azure, CloudFront, and what others call theirs."""
_SHOWN = 8  # hex digits of the rest of a query


@dataclass(frozen=True)
class Address:
    """Where something lies. text: as it was given, which may hold secrets; `str` of it holds none."""

    text: str

    @cached_property
    def protocol(self) -> str:
        """What stands in front of ://, in lower case."""
        return self.text.partition("://")[0].lower()

    @property
    def web(self) -> bool:
        """Whether it is one of http or https."""
        return self.protocol in WEB

    @cached_property
    def host(self) -> str:
        """Protocol and host, or bucket, without a user."""
        return "/".join(str(self).split("/", 3)[:3])

    @cached_property
    def path(self) -> PurePosixPath:
        """The path on the host, or in the bucket."""
        rest = self.text.partition("://")[2].partition("/")[2]
        return PurePosixPath(unquote(re.split(r"[?#]", rest, maxsplit=1)[0]) if self.web else rest)

    @property
    def suffix(self) -> str:
        """The ending of its name, as of a path."""
        return self.path.suffix

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name

    @cached_property
    def shown(self) -> str:
        """Without user, password and signature."""
        return _shown(self.text)

    def __str__(self) -> str:
        return self.shown

    def below(self, path: str) -> Address:
        """What lies under a path, in the same bucket's protocol: "bucket/photos/1.jpg"."""
        return Address(f"{self.text.partition('://')[0]}://{path}")


def is_address(text: str) -> bool:
    """Whether a text begins as an address does, be it one that is fetched or not.

    >>> is_address("s3://bucket/a.jpg"), is_address("file:///etc/passwd"), is_address("photos/a.jpg")
    (True, True, False)
    """
    return _ADDRESS.match(text) is not None


def address_of(text: str) -> Address | None:
    """The address that a text is; None for any other text. Nothing is asked, and nothing refused."""
    return Address(text) if is_address(text) else None


def refusal(address: Address) -> str | None:
    """Why an address is not fetched, as the rest of a sentence; None for one that is."""
    if address.protocol not in PROTOCOLS:
        some = ", ".join(name for name in PROTOCOLS if name not in ("s3a", "gcs", "abfss"))
        return f"is of a kind that is not fetched ({address.protocol}://); expected one of {some}"
    rest = address.text.partition("://")[2]
    if not re.match(r"[^/?#\\\s]", rest) or any(sign < " " or sign == "\x7f" for sign in address.text):
        return "is no address that can be fetched; expected a host or bucket, and a path"
    return None


def check_address(address: Address) -> None:
    """Raises ShotfitError for an address that is not fetched."""
    if why := refusal(address):
        raise ShotfitError(f"{address} {why}.")


def only_here(source: object, what: str) -> None:
    """Refuse an address where files of this machine are needed, with the command that copies it. what: "a task".

    Raises ShotfitError.
    """
    text = str(source)
    if "://" not in text:
        text = text.replace(":/", "://", 1)  # as a path has it
    if not is_address(text) or (address := Address(text)).protocol not in PROTOCOLS:
        return
    copy = {"s3": "aws s3 cp --recursive {} photos", "gs": "gcloud storage cp -r {} photos", "https": "curl -O {}"}
    command = copy.get(address.protocol, "").format(address)
    advice = f": {command}" if command else "."
    raise ShotfitError(f"{address} lies elsewhere, and {what} is read from this machine. Copy it here first{advice}")


def without_secrets(text: str) -> str:
    """A text, such as a library's error, in which no address shows its secrets.

    >>> without_secrets("404 for https://me:pass@host/a.jpg?sig=abc")
    '404 for https://host/a.jpg'
    """
    return _IN_TEXT.sub(lambda found: _shown(found[0]), text)


def _shown(text: str) -> str:
    protocol, _, rest = text.partition("://")
    web = protocol.lower() in WEB
    if web:
        rest = rest.partition("#")[0]
    host, slash, path = rest.partition("/")
    if not slash and "?" in host:
        host, _, query = host.partition("?")
        path = f"?{query}"
    user, at, bare = host.rpartition("@")
    if at and (web or ":" in user):  # abfs://container@account has no secret there
        host = bare
    path, mark, query = path.partition("?")
    kept = [one for one in query.split("&") if one and not _SECRETS.fullmatch(unquote(one.partition("=")[0]))]
    if web and kept:
        digest = hashlib.sha256("&".join(kept).encode("utf-8", "surrogateescape")).hexdigest()[:_SHOWN]
        path += f"?{digest}"
    elif not web and mark and kept == query.split("&"):
        path += f"?{query}"  # of a key in a bucket, which may have the sign
    return f"{protocol}://{host}{slash}{path}"
