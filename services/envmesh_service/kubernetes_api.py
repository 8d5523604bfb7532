"""The cluster's API server: who we are to it, whose a token is, and Secrets. The one place that imports ``kubernetes``.

The package is an extra (``pip install 'envmesh[kubernetes]'``) and imported when it is first needed. Calls block, with
a bound on their time; ``review`` is for event loops. What goes wrong is an ``OSError`` that says what was asked, and
never holds a token or a Secret's content.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envmesh.errors import MissingExtra

__all__ = ["ApiRefused", "ClusterApi", "EventLines", "ReviewedToken"]

_SECONDS = 5.0
"""The bound on one call."""

_MOST_RETRY_AFTER = 30.0
"""An API server that asks for a longer pause is asked again sooner."""

_ACCOUNT = "system:serviceaccount:"


class ApiRefused(OSError):
    """The API server does not do what was asked. ``status`` is HTTP's; 0: it did not answer. ``retry_after``: it asks
    to be left alone for so long, in seconds."""

    def __init__(self, what: str, status: int, why: str, retry_after: float = 0.0) -> None:
        super().__init__(f"the API server did not {what}: {why}" + (f" (HTTP {status})" if status else ""))
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True, slots=True)
class ReviewedToken:
    """A ServiceAccount's token that is good. ``expires_at`` is in seconds since 1970; infinite where it says none."""

    namespace: str
    name: str
    expires_at: float


class EventLines:
    """The lines of an answer that goes on."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def lines(self) -> Iterator[bytes]:
        """Each line as it comes."""
        rest = b""
        for data in self._response.stream(amt=None, decode_content=True):
            *whole, rest = (rest + data).split(b"\n")
            yield from (line for line in whole if line)

    def shutdown(self) -> None:
        """End it from another thread."""
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self._response.shutdown()


class ClusterApi:
    """A connection to the API server, as the pod's ServiceAccount or as a kubeconfig says."""

    def __init__(self, client: Any) -> None:
        self.client = client
        """The package's ApiClient."""
        self.calls: dict[tuple[str, str], int] = {}
        """How many calls ``raw`` and ``stream`` have made, by verb and resource."""
        self.refusals: dict[tuple[str, str, str], int] = {}
        """How many of them were refused, by HTTP status too; 0: there was no answer."""

    @classmethod
    def connect(cls, kubeconfig: str = "") -> ClusterApi:
        """As ``kubeconfig`` says; without one as this pod's ServiceAccount, else as ``$KUBECONFIG`` or
        ``~/.kube/config`` says.

        Raises:
            MissingExtra: the package is not installed. ApiRefused: nothing says where the API server is.
        """
        kubernetes = _package()
        configuration = kubernetes.client.Configuration()
        try:
            if kubeconfig:
                kubernetes.config.load_kube_config(kubeconfig, client_configuration=configuration)
            else:
                try:
                    kubernetes.config.load_incluster_config(client_configuration=configuration)
                except kubernetes.config.ConfigException:
                    kubernetes.config.load_kube_config(client_configuration=configuration)
        except (
            Exception
        ) as error:  # of a file that is no kubeconfig the package says whatever it stumbles over
            if kubeconfig:
                why = f"{kubeconfig} cannot be used: {error}; the path of a kubeconfig is right"
            else:
                why = f"{error}; run in a pod with a ServiceAccount token, or set KUBECONFIG to a kubeconfig"
            raise ApiRefused("become known", 0, why) from None
        # Else urllib3 sleeps for as long as an API server that throttles says, three times over, and no bound on a
        # call's time holds: who asks decides when to ask again.
        configuration.retries = False
        return cls(kubernetes.client.ApiClient(configuration))

    async def review(self, token: str, audience: str) -> ReviewedToken | None:
        """Whose token it is, where it is one of a ServiceAccount, good, and made for ``audience``.

        Raises:
            ApiRefused: it cannot be told.
        """
        return await asyncio.to_thread(self.review_blocking, token, audience)

    def review_blocking(self, token: str, audience: str) -> ReviewedToken | None:
        """As ``review``, in a thread."""
        models = _package().client
        spec = models.V1TokenReviewSpec(token=token, audiences=[audience] if audience else None)
        api = models.AuthenticationV1Api(self.client)
        done = self._call("review a token", api.create_token_review, models.V1TokenReview(spec=spec))
        status = done.status
        if status is None or not status.authenticated or status.user is None:
            return None
        if audience and audience not in (status.audiences or ()):
            return None
        username = status.user.username or ""
        namespace, _, name = username.removeprefix(_ACCOUNT).partition(":")
        if not username.startswith(_ACCOUNT) or not namespace or not name:
            return None
        return ReviewedToken(namespace, name, _expiry(token))

    def secret(self, namespace: str, name: str) -> dict[str, bytes] | None:
        """What a Secret holds; None: there is none.

        Raises:
            ApiRefused: it may not be read, or the API server does not answer.
        """
        api = _package().client.CoreV1Api(self.client)
        try:
            found = self._call(
                f"show the Secret {namespace}/{name}", api.read_namespaced_secret, name, namespace
            )
        except ApiRefused as error:
            if error.status == 404:
                return None
            raise
        return {key: base64.b64decode(value) for key, value in (found.data or {}).items()}

    def create_secret(
        self, namespace: str, name: str, data: Mapping[str, bytes], *, kind: str, labels: Mapping[str, str]
    ) -> bool:
        """Make a Secret. False: there is one already, which stays as it is.

        Raises:
            ApiRefused: it may not be made, or the API server does not answer.
        """
        models = _package().client
        body = models.V1Secret(
            metadata=models.V1ObjectMeta(name=name, namespace=namespace, labels=dict(labels)),
            type=kind,
            data={key: base64.b64encode(value).decode() for key, value in data.items()},
        )
        api = models.CoreV1Api(self.client)
        try:
            self._call(f"make the Secret {namespace}/{name}", api.create_namespaced_secret, namespace, body)
        except ApiRefused as error:
            if error.status == 409:
                return False
            raise
        return True

    def replace_secret(self, namespace: str, name: str, data: Mapping[str, bytes]) -> None:
        """Change these entries of a Secret, where nobody else has meanwhile.

        Raises:
            ApiRefused: there is none, somebody else changed it (409), or it may not be changed.
        """
        models = _package().client
        api = models.CoreV1Api(self.client)
        what = f"change the Secret {namespace}/{name}"
        found = self._call(what, api.read_namespaced_secret, name, namespace)
        found.data = {
            **(found.data or {}),
            **{key: base64.b64encode(value).decode() for key, value in data.items()},
        }
        self._call(what, api.replace_namespaced_secret, name, namespace, found)

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: str = "application/json",
        seconds: float = _SECONDS,
    ) -> Any:
        """One call, JSON in and JSON out: for what models of the package would only make slow.

        Raises:
            ApiRefused: with HTTP's status.
        """
        with self._counted(method, path):
            what = f"{method} {path}"
            response = self._call(what, self._send, method, path, body, content, seconds=seconds)
            try:
                return json.loads(response.data)
            except ValueError:
                raise ApiRefused(what, response.status, "its answer is no JSON") from None
            except Exception as error:
                raise ApiRefused(what, 0, f"it does not answer ({type(error).__name__})") from None

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str], seconds: float) -> Iterator[EventLines]:
        """An answer that goes on, line by line, for at most ``seconds`` between two pieces.

        Raises:
            ApiRefused: it was refused, or broke.
        """
        whole = f"{path}?{urllib.parse.urlencode(query)}"
        what = f"WATCH {path}"
        with self._counted("WATCH", path):
            response = self._call(what, self._send, "GET", whole, None, "application/json", seconds=seconds)
            try:
                yield EventLines(response)
            except ApiRefused:
                raise
            except (OSError, self._http_errors()) as error:
                raise ApiRefused(what, 0, f"the connection broke ({type(error).__name__})") from None
            finally:
                response.close()
                response.release_conn()

    @contextlib.contextmanager
    def _counted(self, verb: str, path: str) -> Iterator[None]:
        parts = path.partition("?")[0].split("/")
        at = parts.index("namespaces") + 2 if "namespaces" in parts else -1
        rest = parts[at:]
        key = verb, "/".join(rest[:1] + rest[2:3])
        self.calls[key] = self.calls.get(key, 0) + 1
        try:
            yield
        except ApiRefused as refused:
            why = (*key, str(refused.status))
            self.refusals[why] = self.refusals.get(why, 0) + 1
            raise

    def _send(self, method: str, path: str, body: Any, content: str, *, _request_timeout: float) -> Any:
        headers = {"Accept": "application/json", "Content-Type": content}
        asked = self.client.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        answer = self.client.call_api(*asked, _request_timeout=(_SECONDS, _request_timeout))
        if not 200 <= answer.status <= 299:
            answer.read()
            raise _package().client.ApiException(http_resp=answer)
        return answer.response

    @staticmethod
    def _http_errors() -> type[Exception]:
        from urllib3.exceptions import HTTPError

        return HTTPError

    @staticmethod
    def _call(what: str, call: Any, *arguments: Any, seconds: float = _SECONDS) -> Any:
        kubernetes = _package()
        try:
            return call(*arguments, _request_timeout=seconds)
        except kubernetes.client.ApiException as error:
            why = _message(error.body) or error.reason or ""
            raise ApiRefused(what, error.status or 0, why, _retry_after(error.headers)) from None
        except Exception as error:  # urllib3 has many, and what they say may hold the request
            raise ApiRefused(what, 0, f"it does not answer ({type(error).__name__})") from None


def _package() -> Any:
    try:
        import kubernetes
    except ImportError:
        raise MissingExtra(
            "this needs the package 'kubernetes', which is not installed: pip install 'envmesh[kubernetes]'"
        ) from None
    return kubernetes


def _message(body: Any) -> str:
    """What an API status says for people."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _retry_after(headers: Any) -> float:
    """The pause that an answer asks for, in seconds; 0: none."""
    said = (headers or {}).get("Retry-After", "")
    return min(float(said), _MOST_RETRY_AFTER) if said.isdecimal() else 0.0


def _expiry(token: str) -> float:
    """The end that a reviewed token says of itself."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, ValueError, KeyError, TypeError, binascii.Error):
        return float("inf")
