"""A notebook kernel forked from the warm process, driven by jupyter_client and nbclient like any other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
from queue import Empty
from typing import Any

import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.connect import KernelConnectionInfo, channel_socket_types
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Any as AnyTrait
from traitlets import Instance, Unicode

from autograder.limits import Limits
from autograder.warm import Child, End, start_child

# The order in which autograder.boot expects the listening sockets, and their "ports".
_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
# The kernel is hostile: longest frame taken from it, and messages that may wait unread.
_MAX_FRAME = 16 * 1024 * 1024
_MAX_WAITING = 32


class ForkedProvisioner(KernelProvisionerBase):
    """Starts kernels as children of a warm process (`autograder.warm.WarmServer`).

    Usable from a kernel specification too: provisioner name ``autograder-forked`` with config ``address``.
    `end` tells how the kernel ended and why.
    """

    address = Unicode("", config=True, help="Socket path of the warm process.")
    limits = Instance(Limits, args=())
    values_fd = AnyTrait(None, help="Descriptor of the socket over which tests call the student's functions.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._child: Child | None = None
        self._folder: str | None = None
        self._stopped_for: End | None = None

    @property
    def has_process(self) -> bool:
        return self._child is not None

    @property
    def end(self) -> End | None:
        """How the kernel ended; None while it runs or before it started."""
        if self._child is None:
            return self._stopped_for
        end = self._child.poll()
        return (self._stopped_for or end) if end is not None else None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    async def poll(self) -> int | None:
        if self._child is None:
            return 0
        end = self._child.poll()
        return None if end is None else _exit_code(end)

    async def wait(self) -> int | None:
        code = 0
        if self._child is not None:
            while (end := self._child.poll()) is None:
                await _readable(self._child)
            code = _exit_code(end)
            self._stopped_for = self._stopped_for or end
            self._child.close()
            self._child = None
        self._remove_folder()
        return code

    async def send_signal(self, signum: int) -> None:
        if self._child is not None:
            self._child.signal(signum)

    async def kill(self, restart: bool = False) -> None:
        if self._child is not None:
            self._child.kill()

    async def terminate(self, restart: bool = False) -> None:
        await self.kill(restart)  # process 1 of a namespace takes no polite signal

    def stop_for(self, end: End) -> None:
        """Kill the kernel for a reason that only the grader knows, which `end` will then tell."""
        self._stopped_for = self._stopped_for or end
        if self._child is not None:
            self._child.kill()

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs["env"] = {}  # nothing of ours goes in
        kwargs = await super().pre_launch(**kwargs)
        return {"cmd": []} | kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Bind the kernel's sockets, have it forked, wait until it is up.

        Raises:
            WarmError: the warm process is gone or the sandbox was refused.
        """
        self._stopped_for = None
        self._folder = tempfile.mkdtemp(prefix="kernel-")  # mode 0700
        path = os.path.join(self._folder, "s")
        if self.parent is not None:  # the manager writes the session's key into a file: in there, not at home
            self.parent.connection_file = os.path.join(self._folder, "connection.json")
        listeners = []
        try:
            for port in range(1, len(_CHANNELS) + 1):
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listeners.append(listener)
                listener.bind(f"{path}-{port}")
                listener.listen(16)
            key = os.urandom(24).hex()
            descriptors = [listener.fileno() for listener in listeners]
            if self.values_fd is not None:
                descriptors.append(self.values_fd)
            entry = "autograder.boot:run_kernel"
            self._child = start_child(self.address, entry, descriptors, self.limits, {"key": key})
        finally:
            for listener in listeners:
                listener.close()
        limit = time.monotonic() + 30
        while self._child.poll() is None and not self._child.started and time.monotonic() < limit:
            await _readable(self._child, limit - time.monotonic())
        try:
            self._child.wait_started(0)
        except Exception:
            await self.wait()
            raise
        ports = {f"{name}_port": port for port, name in enumerate(_CHANNELS, start=1)}
        self.connection_info = {
            "transport": "ipc",
            "ip": path,
            "key": key.encode(),
            "signature_scheme": "hmac-sha256",
            **ports,  # type: ignore[typeddict-item]
        }
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        if self._child is not None:
            self._child.kill()
            await self.wait()
        self._remove_folder()

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        return min(recommended, 1.0)

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _exit_code(end: End) -> int:
    return end.code if end.code is not None else -(end.signal or signal.SIGKILL)


def _mark(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _readable(child: Child, timeout: float | None = None) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(child.fileno(), _mark, ready)
    try:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ready, timeout)
    finally:
        loop.remove_reader(child.fileno())


# ---------------------------------------------------------------- the client


class _CountingChannel(AsyncZMQSocketChannel):
    """A channel that counts the bytes it takes, and calls back once when they are too many."""

    allowance = 1 << 62
    exceeded: Any = None

    async def _recv(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        while True:
            assert self.socket is not None
            frames = await self.socket.recv_multipart(**kwargs)
            self.allowance -= sum(len(frame) for frame in frames)
            if self.allowance < 0 and self.exceeded is not None:
                self.exceeded()
                self.exceeded = None
            try:
                _, message = self.session.feed_identities(frames)
                found = self.session.deserialize(message)
                if _is_message(found):
                    return found
            except Exception:
                pass
            # Not a message: a student's process wrote to the socket. Hear on; the time limit still holds.
            await asyncio.sleep(0)


def _is_message(message: dict[str, Any]) -> bool:
    """Whether it has what jupyter_client and nbclient take for granted: the student's process can sign."""
    parts = (message["header"], message["parent_header"], message["content"])
    if not all(isinstance(part, dict) for part in parts) or not isinstance(message["msg_type"], str):
        return False
    return message["msg_type"] != "execute_reply" or isinstance(message["content"].get("status"), str)


class SandboxedKernelClient(AsyncKernelClient):
    """A client that bounds what it takes from the kernel, and that is ready as soon as the kernel is."""

    iopub_channel_class = _CountingChannel
    shell_channel_class = _CountingChannel
    control_channel_class = _CountingChannel
    stdin_channel_class = _CountingChannel

    def _create_connected_socket(self, channel: str, identity: bytes | None = None) -> zmq.Socket[Any]:
        wire = self.context.socket(channel_socket_types[channel])
        wire.linger = 0
        wire.maxmsgsize = _MAX_FRAME
        wire.rcvhwm = _MAX_WAITING
        if identity:
            wire.identity = identity
        wire.connect(self._make_url(channel))
        return wire

    def start_channels(self, *args: Any, **kwargs: Any) -> None:
        kwargs["hb"] = False  # the lifeline says at once what a heartbeat says late
        super().start_channels(*args, **kwargs)
        manager = self.parent
        if isinstance(manager, SandboxedKernelManager):
            self.iopub_channel.allowance = manager.output_bytes
            self.iopub_channel.exceeded = manager.output_exceeded

    async def _async_wait_for_ready(self, timeout: float | None = None) -> None:
        """As the base class's, which waits 0.2 s for silence at the end: here the kernel's "idle" ends it."""
        limit = time.monotonic() + (timeout or 60)
        request = None
        while request is None or not await self._heard_idle(request, 1.0):
            if not await self._async_is_alive():
                raise RuntimeError("The kernel died before it was ready.")
            if time.monotonic() > limit:
                raise RuntimeError(f"The kernel was not ready within {timeout or 60:.0f} seconds.")
            request = self.kernel_info()
            with contextlib.suppress(Empty):
                reply = await self.shell_channel.get_msg(timeout=5)
                if reply["msg_type"] == "kernel_info_reply":
                    self._handle_kernel_info_reply(reply)

    wait_for_ready = _async_wait_for_ready

    async def _heard_idle(self, request: str, timeout: float) -> bool:
        with contextlib.suppress(Empty):
            while True:
                message = await self.iopub_channel.get_msg(timeout=timeout)
                if (
                    message["parent_header"].get("msg_id") == request
                    and message["content"].get("execution_state") == "idle"
                ):
                    return True
        return False


class SandboxedKernelManager(AsyncKernelManager):
    """jupyter_client's manager for a kernel in the sandbox. Make it with `sandboxed_kernel`."""

    output_bytes = 1 << 62

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._clients: list[AsyncKernelClient] = []

    def client(self, **kwargs: Any) -> AsyncKernelClient:  # type: ignore[override]
        client = super().client(**kwargs)
        self._clients.append(client)
        return client

    async def shutdown_kernel(  # type: ignore[override]
        self, now: bool = False, restart: bool = False
    ) -> None:
        """Kill the kernel with everything in its sandbox, and close the clients that `client` made.

        nbclient leaves its client open. Its sockets would later be closed by the garbage collector, in the
        middle of another event loop that may by then watch the same descriptors.
        """
        self.stop_restarter()
        for client in self._clients:
            client.stop_channels()
        self._clients.clear()
        if self.provisioner is not None and self.provisioner.has_process:
            await self.provisioner.kill()
            await self.provisioner.wait()
        await self._async_cleanup_resources(restart)

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=[], display_name="Python 3 (sandboxed)", language="python")

    @property
    def end(self) -> End | None:
        """How the kernel ended and why; None while it runs."""
        return self.provisioner.end if isinstance(self.provisioner, ForkedProvisioner) else None

    @property
    def pid(self) -> int | None:
        """The kernel's process id, seen from outside; None when it does not run."""
        return self.provisioner.pid if isinstance(self.provisioner, ForkedProvisioner) else None

    def output_exceeded(self) -> None:
        if isinstance(self.provisioner, ForkedProvisioner):
            self.provisioner.stop_for(End("killed", message="It sent far more output than is kept."))


def sandboxed_kernel(
    server_address: str, limits: Limits, values_fd: int | None = None
) -> SandboxedKernelManager:
    """A manager for one kernel in the sandbox, not yet started; nbclient starts it.

    Args:
        server_address: ``WarmServer("kernel").address``.
        limits: the bounds.
        values_fd: one end of a ``socket.socketpair()``; `autograder.proxy.Student` takes the other. It is
            copied into the kernel at its start; close your copy after that.

    Returns:
        A manager to give to ``nbclient.NotebookClient(notebook, km=manager)``. nbclient leaves it running
        afterwards, for the tests: end it with ``await manager.shutdown_kernel(now=True)``. ``manager.end``
        then says how the kernel ended. ``await manager.interrupt_kernel()`` stops a call that takes too long.

    Example:
        >>> manager = sandboxed_kernel(server.address, Limits())                      # doctest: +SKIP
        >>> NotebookClient(notebook, km=manager, timeout=60).execute()                # doctest: +SKIP
    """
    manager = SandboxedKernelManager(transport="ipc", client_factory=SandboxedKernelClient)
    manager.output_bytes = (limits.output_kb * 1024) * 4 + 2 * _MAX_FRAME
    manager.provisioner = ForkedProvisioner(
        parent=manager,
        kernel_spec=manager.kernel_spec,
        address=server_address,
        limits=limits,
        values_fd=values_fd,
    )
    return manager
