"""The aioquic this package was written for, checked when it is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aioquic
from aioquic.quic.connection import QuicConnection

SUPPORTED = "aioquic >= 1.7.1, < 1.8"

_NEEDED_NAMES = (
    "_assert_stream_can_receive",
    "_close_event",
    "_close_pending",
    "_flush_builder",
    "_confirm_handshake",
    "_crypto_streams",
    "_cryptos",
    "_get_or_create_stream",
    "_handle_ack_frame",
    "_handle_crypto_frame",
    "_handle_max_data_frame",
    "_handle_max_stream_data_frame",
    "_handle_max_streams_bidi_frame",
    "_handle_max_streams_uni_frame",
    "_handle_reset_stream_frame",
    "_handle_stop_sending_frame",
    "_handle_stream_frame",
    "_idle_timeout",
    "_initialize",
    "_local_max_data",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_log_key_updated",
    "_loss",
    "_on_connection_limit_delivery",
    "_on_max_stream_data_delivery",
    "_network_paths",
    "_packet_number",
    "_payload_received",
    "_peer_cid_available",
    "_quic_logger",
    "_remote_max_data",
    "_remote_max_data_used",
    "_remote_max_datagram_frame_size",
    "_remote_max_idle_timeout",
    "_remote_max_streams_bidi",
    "_remote_max_streams_uni",
    "_spaces",
    "_streams",
    "_write_application",
    "_write_connection_limits",
)


def require_names(kind: type, *names: str) -> None:
    """Check that aioquic's ``kind`` has the private names we rely on.

    Raises:
      ImportError: this aioquic is not one of those that are supported.
    """
    set_at_construction = kind.__init__.__code__.co_names  # type: ignore[misc]  # a plain function
    missing = [
        name for name in names if not hasattr(kind, name) and name not in set_at_construction
    ]
    if missing:
        raise ImportError(
            f"moqtrio supports {SUPPORTED}; the installed aioquic {aioquic.__version__} "
            f"lacks {', '.join(missing)} of {kind.__name__}"
        )


require_names(QuicConnection, *_NEEDED_NAMES)

# aioquic's annotations describe the streams and buffers that this package replaces, so
# to the type checkers its connection has any attribute, of any type.
if TYPE_CHECKING:

    class StockConnection:
        """aioquic's QUIC engine."""

        _confirm_handshake: Any
        _handle_ack_frame: Any
        _payload_received: Any
        _handle_crypto_frame: Any
        _handle_max_data_frame: Any
        _handle_max_stream_data_frame: Any
        _handle_max_streams_bidi_frame: Any
        _handle_max_streams_uni_frame: Any
        _initialize: Any
        _log_key_updated: Any
        close: Any
        receive_datagram: Any

        def __init__(self, *args: Any, **keywords: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    StockConnection = QuicConnection
