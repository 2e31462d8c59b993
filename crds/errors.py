"""What can go wrong at the border to the API server.

Theory: two families. `BadObject` is about content: a field of an object (or an argument) holds something that is not
allowed; it names the field, so it can become a condition on that object. `ApiError` is about the world: the API
server refused, and callers match on the subclass. `Conflict` and `NotFound` mean "the world moved: look again".

Who raises them: codec, values and selector raise BadObject; every Store raises ApiError. Timeouts are the
built-in `TimeoutError`, broken connections the built-in `ConnectionError`: both are `OSError`, "try again later".
"""


class BadObject(ValueError):
    """A field holds what it must not. `str()` is "field: problem"."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    def under(self, prefix: str) -> "BadObject":
        """The same problem seen from the enclosing object: field "prefix.field"."""
        return BadObject(f"{prefix}.{self.field}", self.problem)


class ApiError(Exception):
    """The API server refused: `status` is the HTTP code, `reason` Kubernetes' word for it, `message` its sentence."""

    default_status = 500
    default_reason = "InternalError"

    def __init__(self, message: str = "", *, status: int = 0, reason: str = "") -> None:
        self.status = status or self.default_status
        self.reason = reason or self.default_reason
        self.message = message or self.reason
        super().__init__(f"{self.status} {self.reason}: {self.message}")


class Conflict(ApiError):
    """409: the object changed since it was read, or a precondition (uid, resourceVersion) does not hold."""

    default_status = 409
    default_reason = "Conflict"


class AlreadyExists(ApiError):
    """409 on create: the name is taken."""

    default_status = 409
    default_reason = "AlreadyExists"


class NotFound(ApiError):
    """404: no such object (or no such kind: then the CRDs are not installed)."""

    default_status = 404
    default_reason = "NotFound"


class Gone(ApiError):
    """410: that resourceVersion is too old to list or watch from. List again."""

    default_status = 410
    default_reason = "Expired"


class Invalid(ApiError):
    """422: the API server's validation refused the content; `message` is its sentence."""

    default_status = 422
    default_reason = "Invalid"


class Unauthorized(ApiError):
    """401: the credentials were not accepted, also after the token file was read again."""

    default_status = 401
    default_reason = "Unauthorized"


class Forbidden(ApiError):
    """403: RBAC does not allow it."""

    default_status = 403
    default_reason = "Forbidden"


class TooManyRequests(ApiError):
    """429: the API server sheds load. Try again later."""

    default_status = 429
    default_reason = "TooManyRequests"


_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def api_error(status: int, *, reason: str = "", message: str = "") -> ApiError:
    """The exception for an API server's Status answer."""
    if reason == "AlreadyExists":
        return AlreadyExists(message, status=status, reason=reason)
    if reason in ("Expired", "Gone"):  # a watch reports it inside a 200 stream
        return Gone(message, status=status, reason=reason)
    if status in _BY_STATUS:
        return _BY_STATUS[status](message, status=status, reason=reason)
    return ApiError(message, status=status, reason=reason or "Unknown")
