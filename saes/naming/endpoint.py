"""`Endpoint`: questions to a server that speaks OpenAI's chat completions, each answer on disk before it is used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from probekit.files import write_whole

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

ATTEMPTS = 5
"""Times a question is put before its feature goes without a name."""
PAUSE = 1.0
"""Seconds before the second attempt; each further pause is twice as long."""
LONGEST_PAUSE = 60.0
"""Seconds, also where the server asks for more."""
GIVE_UP = 8
"""Questions in a row without an answer after which no more are put."""
_LARGEST = 4_000_000
_LEAST_SECRET = 8
"""Letters of a key from which it is one, and no placeholder such as `none` that local servers are given."""
_REFUSED = (401, 403, 404, 405)
"""What a server says of the address, the key or the model, and so to every question."""


class NoAnswer(Exception):
    """The server did not answer a question; the message says why."""


class _Again(NoAnswer):
    """It may, if asked again."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


def checked_url(base_url: str) -> str:
    """A base URL without a slash at its end.

    Raises:
        ValueError: it is none, or carries a key.
    """
    example = "give one such as http://localhost:8000/v1"
    try:
        parts = urlsplit(base_url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise ValueError(f"base_url is no address ({error}): {example}") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            f"base_url carries more than an address: {example}, and a key in an environment variable (api_key_env=)"
        )
    if not usable:
        raise ValueError(f"base_url {base_url!r} is no http(s) address: {example}")
    return base_url.strip().rstrip("/").removesuffix("/chat/completions")


class Endpoint:
    """One model behind one server. May be asked from several threads.

    An answer is kept as a file named by the hash of the whole request (the model's name among it, the server's address
    not), written beside its place and renamed into it. What is kept is never asked again, and needs no server.

    Args:
        base_url: Where `/chat/completions` is found.
        model: Its name there.
        cache: Folder of the answers.
        api_key_env: Environment variable that holds the key; None sends none.
        timeout: Seconds for one answer, all of it.
        options: Added to every request; a value of None leaves a field out.

    Raises:
        ValueError: no address.
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        cache: str | Path,
        *,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = checked_url(base_url)
        self._model, self._timeout, self._key_env = model, timeout, api_key_env
        self._options = {key: value for key, value in (options or {}).items() if value is not None}
        self._cache = Path(cache).expanduser()
        self._cache.mkdir(parents=True, exist_ok=True)
        self._lock, self._halt = threading.Lock(), threading.Event()
        self._key = ""
        self._client: httpx.Client | None = None
        self._answered, self._missed, self._over = 0, 0, ""

    def ask(self, system: str, user: str) -> str:
        """The answer to one question.

        Args:
            system: What is asked for.
            user: What it is asked about.

        Raises:
            NoAnswer: the server gave none, after several attempts.
            ConnectionError: no server is there at all. Said once; then there is no answer to anything.
            PermissionError, ValueError: it refuses the first question because of the key, the address or the model.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        request = {"model": self._model, "messages": messages, **self._options}
        name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        file = self._cache / name[:2] / f"{name}.json"
        kept = _kept(file, request)
        if kept is not None:
            return kept
        if self._over:
            raise NoAnswer(self._over)
        try:
            client = self._connected()
        except ConnectionError as error:
            self._over = str(error)
            raise
        try:
            answer = self._several_times(client, request)
        except NoAnswer as error:
            with self._lock:
                self._missed += 1
                if self._missed >= GIVE_UP:
                    self._over = f"{error} (no more was asked after {GIVE_UP} questions in a row without an answer)"
            raise
        write_whole(file, json.dumps({"request": request, "answer": answer}))
        with self._lock:
            self._answered, self._missed = self._answered + 1, 0
        return answer

    def stop(self) -> None:
        """Put no more questions; those under way end."""
        self._over = self._over or "stopped"
        self._halt.set()

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> httpx.Client:
        """The client; looks once whether anything answers at the address."""
        import httpx

        with self._lock:
            if self._client is not None:
                return self._client
            if self._key_env is not None:
                self._key = os.environ.get(self._key_env, "").strip()
                if not self._key or not self._key.isascii():
                    raise ValueError(f"api_key_env: the environment variable {self._key_env} holds no key")
            client = httpx.Client(timeout=httpx.Timeout(self._timeout, connect=min(self._timeout, 10.0)))
            try:
                with client.stream("GET", f"{self.url}/models", headers=self._headers):
                    pass  # it answers; what it says is not read, as some say it for ever
            except httpx.ReadTimeout:
                pass  # something is there, and slow
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                client.close()
                raise ConnectionError(
                    f"no server answers at {self.url} ({_reason(error)}): start it, or correct the address; answers "
                    f"already given are kept in {self._cache}"
                ) from None
            self._client = client
            return client

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _several_times(self, client: httpx.Client, request: Mapping[str, Any]) -> str:
        from tenacity import Retrying, retry_if_exception_type, sleep_using_event, stop_after_attempt

        retrying = Retrying(
            sleep=sleep_using_event(self._halt),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_pause,
            retry=retry_if_exception_type(_Again),
            reraise=True,
        )
        return retrying(self._once, client, request)

    def _once(self, client: httpx.Client, request: Mapping[str, Any]) -> str:
        import httpx

        if self._over:
            raise NoAnswer(self._over)
        until, body = time.monotonic() + self._timeout, bytearray()
        try:
            url = f"{self.url}/chat/completions"
            with client.stream("POST", url, json=request, headers=self._headers) as response:
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > until:
                        raise _Again(f"no whole answer within {self._timeout:g} s")
                    if len(body) > _LARGEST:
                        raise NoAnswer(f"an answer of over {_LARGEST:,} bytes")
        except httpx.TimeoutException:
            raise _Again(f"no answer within {self._timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _Again(_reason(error)) from None
        text = body.decode("utf-8", "replace")
        if len(self._key) >= _LEAST_SECRET:
            text = text.replace(self._key, "***")  # some servers repeat the key in what they say of it
        if response.status_code != 200:
            self._refuse(response, text)
        return _content(text)

    def _refuse(self, response: httpx.Response, text: str) -> None:
        said = f"HTTP status {response.status_code}: {_start(text)}"
        if response.status_code in (408, 409, 429) or response.status_code >= 500:
            raise _Again(said, _retry_after(response.headers.get("retry-after")))
        if response.status_code in _REFUSED and not self._answered:
            self._over = said
            if response.status_code in (401, 403):
                hint = "name the environment variable that holds the key: api_key_env"
                raise PermissionError(f"the server at {self.url} refuses to answer ({said}): {hint}")
            raise ValueError(
                f"nothing to ask at {self.url}/chat/completions ({said}): is {self._model!r} the name of a model there, and "
                "does the address end as it should (often /v1)?"
            )
        raise NoAnswer(said)


def _content(text: str) -> str:
    """The text of a chat completion; empty where the model says nothing."""
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _Again(f"no chat completion: {_start(text)}") from None
    return content if isinstance(content, str) else ""


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.after if isinstance(error, _Again) else None
    pause = PAUSE * 2.0 ** (state.attempt_number - 1) if asked is None else asked
    return min(pause, LONGEST_PAUSE)


def _retry_after(header: str | None) -> float | None:
    """Seconds, of a number of them or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        seconds = float(header)
        return seconds if 0 <= seconds < float("inf") else None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None


def _reason(error: Exception) -> str:
    return _start(str(error)) or type(error).__name__


def _start(text: str) -> str:
    """The first words of what a server says, on one line, without control characters."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
    return words if len(words) <= 160 else f"{words[:160]} …"


def _kept(file: Path, request: Mapping[str, Any]) -> str | None:
    """The answer in a file; None where there is none to this request, or where it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        answer = found["answer"] if found["request"] == request else None
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        return None
    return answer if isinstance(answer, str) else None
