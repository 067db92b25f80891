"""A watch with generated stubs, as a program in another language would have one: it uses the next reader if one fails."""

import itertools
import time

import grpc
from driftdb.v1 import reader_pb2, reader_pb2_grpc, types_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

# A stream can be silent for a long time. Pings detect a connection that broke without an error.
OPTIONS = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]


def reason_of(error):
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "") if status else ""


def watch(readers, request):
    """Yields each message once and in order, and each commit whole. If a reader fails, continues at the next one.
    Yields `opened` at the start, and again if everything received so far is no longer valid."""
    for attempt in itertools.count():
        resumed = request.WhichOneof("start") == "resume_token"
        with grpc.insecure_channel(readers[attempt % len(readers)], OPTIONS) as channel:
            try:
                whole = reader_pb2.WatchDriftResponse()
                for message in reader_pb2_grpc.ReaderServiceStub(channel).WatchDrift(request):
                    whole.MergeFrom(message)  # a large commit comes in parts; all but the last have `more`
                    if message.commit.more:
                        continue
                    request.resume_token = message.resume_token
                    if not (resumed and message.HasField("opened")):
                        yield whole
                    whole = reader_pb2.WatchDriftResponse()
                return  # until_seq was reached
            except grpc.RpcError as error:
                if reason_of(error) in ("EPOCH_CHANGED", "BELOW_FLOOR"):
                    for start in ("after_seq", "after_time", "resume_token"):
                        request.ClearField(start)
                    request.epoch, request.incarnation, request.initial_rows = 0, 0, True
                elif error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
        time.sleep(0.2)

