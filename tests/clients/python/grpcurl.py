#!/usr/bin/env python3
"""Runs the grpcurl lines of the guides without grpcurl, by the same means: reflection, and requests as JSON.

Run by run.sh. grpcurl itself is not needed: what could rot is names, fields and JSON, and those are checked here.
"""

import itertools
import shlex
import sys
import time

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from daemons import Daemons
from raw_watch import reason_of

# Options of grpcurl, and how many arguments each has.
OPTIONS = {"-plaintext": 0, "-d": 1, "-max-time": 1, "-keepalive-time": 1}
# The lines that must fail, and how.
FAILS = {"ordes": (grpc.StatusCode.NOT_FOUND, "TABLE_NOT_FOUND")}


def lines(path):
    """The lines of a guide that call grpcurl, each split into words."""
    with open(path, encoding="utf-8") as file:
        blocks = file.read().split("```sh\n")[1:]
    for block in blocks:
        command = ""
        for line in block.split("```")[0].replace("\\\n", " ").splitlines(keepends=True):
            command += line
            try:
                words = shlex.split(command, comments=True)
            except ValueError:
                continue  # a quote is open: the command goes on
            if "grpcurl" in words[:1]:
                yield words
            command = ""
        assert not command.strip(), command


class Server:
    """A daemon, seen through reflection as grpcurl sees it."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def call(self, path, body):
        """Calls a method with a JSON request, and yields the answers as JSON."""
        service, _, name = path.rpartition("/")
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        request = json_format.Parse(body, message_factory.GetMessageClass(method.input_type)(), descriptor_pool=self.pool)
        answer = message_factory.GetMessageClass(method.output_type)
        call = self.channel.unary_stream(
            f"/{path}", request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        for message in map(json_format.MessageToDict, call(request)):
            yield message
            if "caughtUp" in message and "until_seq" not in body:
                return  # a stream without end: whoever sits there would press ctrl-C


def run(servers, words, token):
    """Runs one line of the guide and returns its answers. TOKEN in the line means the token of an earlier answer."""
    words, body = words[1:], "{}"
    while words[0].startswith("-"):
        option = words.pop(0)
        values = [words.pop(0) for _ in range(OPTIONS[option])]
        body = values[0] if option == "-d" else body
    server, what = servers[words.pop(0)], words.pop(0)
    if what == "list":
        assert "driftdb.v1.WriterService" in server.database.get_services()
    elif what == "describe":
        assert server.pool.FindMessageTypeByName(words.pop(0)).fields
    else:
        if "ago" in body:
            time.sleep(0.6)  # as it takes to type the line: half a second ago the table is there
        answers = list(server.call(what, body.replace("TOKEN", token)))
        assert answers, (what, body)
        if what.endswith("Health/Check"):
            assert answers[0]["status"] == "SERVING", answers
        return answers
    assert not words, words
    return []


def main():
    guides = sys.argv[1:]
    counted, failed, token = 0, 0, ""
    with Daemons() as daemons:
        servers = {"127.0.0.1:7401": Server(daemons.writer), "127.0.0.1:7402": Server(daemons.reader().address)}
        for words in itertools.chain(*map(lines, guides)):
            counted += 1
            said = shlex.join(words)
            expected = next((error for sign, error in FAILS.items() if sign in said), None)
            try:
                answers = run(servers, words, token)
                assert expected is None, f"{said}\nmust fail with {expected}"
                token = next((a["resumeToken"] for a in reversed(answers) if "resumeToken" in a), token)
                print(f"  {' '.join(said.split())[:90]}: {len(answers)} answers")
            except grpc.RpcError as error:
                assert (error.code(), reason_of(error)) == expected, f"{said}\n{error}"
                failed += 1
    assert counted > 10 and failed == len(FAILS), (counted, failed)
    print(f"{' and '.join(guides)}: {counted} lines of grpcurl do what they say")


if __name__ == "__main__":
    main()
