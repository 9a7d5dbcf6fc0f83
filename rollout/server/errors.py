"""Errors in the shape in which the OpenAI API reports them."""

from collections.abc import Mapping

from cispo.errors import CispoError


class ApiError(Exception):
    """A request that is not answered as asked.

    Attributes:
        status: HTTP status.
        message: For the person who wrote the client.
        param: Field of the request that is at fault, if one is.
        code: Machine-readable reason, if there is a usual one.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> Mapping[str, object]:
        """Return the JSON object of the response, or of an event in a stream."""
        return {
            "error": {
                "message": self.message,
                "type": _type(self.status),
                "param": self.param,
                "code": self.code,
            }
        }


def bad_request(message: str, *, param: str | None, code: str | None = None) -> ApiError:
    """Return the error of a request that can never be answered."""
    return ApiError(400, message, param=param, code=code)


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 503:
        return "service_unavailable_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def engine_failure(error: Exception) -> ApiError:
    """Return the error of a request that the engine broke on; defects are not shown to clients."""
    message = (
        str(error) if isinstance(error, CispoError) else "internal error; see the server's log"
    )
    return ApiError(500, message, param=None)
