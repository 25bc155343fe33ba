"""C-STORE: send DICOM objects to an archive by the DIMSE protocol (DICOM PS3.4 B), with TLS where it wants that.

The API process imports this module with the first such delivery: pynetdicom brings pydicom.
"""

import logging
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from udig_recon.api.destinations.objects import ResultObjects
from udig_recon.api.destinations.refusals import NotStored, refused
from udig_recon.worker.access.destinations import DIMSEDestination
from udig_recon.worker.storage.base import Storage

_config.STORE_SEND_CHUNKED_DATASET = True  # a file that is sent as it is is not read whole
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # the courier tells what went wrong
MOST_PDU_BYTES = 1 << 20  # that an archive may send at once; its answers have some hundred


class Sending:
    """One attempt to send objects, in a thread; `stop` ends it from another one."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._entity: _Entity | None = None

    def stop(self) -> None:
        """End the association, also one that is being made; `store` then raises NotStored."""
        self._stopped.set()
        association = None if self._entity is None else self._entity.association
        if association is not None:
            _disconnect(association)  # an abort alone would wait until the peer reads it
            if association.is_established:
                association.abort()
            association.dimse.msg_queue.put((None, None))  # wakes who waits for an answer

    def store(self, destination: DIMSEDestination, objects: ResultObjects, storage: Storage) -> None:
        """Send all objects over one association. Raises NotStored."""
        classes = [_sop_class(objects, number) for number in range(len(objects))]
        self._entity = _Entity(ae_title=destination.calling_ae_title)
        association = _associate(self._entity, destination, set(classes))
        failures: list[int] = []
        try:
            for number in range(len(objects)):
                if self._stopped.is_set():
                    raise NotStored("the attempt was ended")
                with storage.scratch() as scratch:
                    objects.append(number, scratch.path)
                    status = _store_one(association, scratch.path, classes[number])
                if status is None:
                    raise NotStored(f"the association broke off, or no answer within {destination.timeout_seconds:g} s")
                if status != 0 and status >> 12 != 0xB:  # a warning: stored
                    failures.append(status)
            association.release()
        finally:
            if association.is_established:
                _disconnect(association)
                association.abort()
        if failures:
            raise refused(failures, len(objects))


class _Socket(AssociationSocket):
    """A socket that waits for a silent peer only so long, and is closed, too, where it could not be connected."""

    def connect(self, primitive: Any) -> None:
        super().connect(primitive)
        if self.socket is not None:  # pynetdicom would wait for ever for a peer that stops to read, or to write
            self.socket.settimeout(self.assoc.network_timeout)

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > MOST_PDU_BYTES:
            raise OSError("the peer announces too much")
        return super().recv(nr_bytes)

    def _shutdown_socket(self) -> None:
        opened = self.socket
        super()._shutdown_socket()
        if opened is not None:
            opened.close()


class _Entity(AE):
    """An application entity that leaves no socket open, and knows its association before that is established."""

    association: Association | None = None

    def _create_socket(self, assoc: Association, address: Any, tls_args: Any) -> AssociationSocket:
        self.association = assoc
        made = _Socket(assoc, address=address)
        made.tls_args = tls_args
        return made


def _disconnect(association: Association) -> None:
    """End the connection, so that no thread waits for the peer any more. The thread that uses the socket closes it."""
    opened = None if association.dul.socket is None else association.dul.socket.socket
    if opened is not None:
        with suppress(OSError):
            # Not that of TLS, which would have the other thread write in plain text.
            socket.socket.shutdown(opened, socket.SHUT_RDWR)


def _sop_class(objects: ResultObjects, number: int) -> str:
    """SOP class of an object."""
    with objects.open(number) as stored:
        meta = dcmread(stored, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta
    return str(meta.MediaStorageSOPClassUID)


def _associate(entity: _Entity, destination: DIMSEDestination, classes: set[str]) -> Association:
    """An association that takes all these classes. Raises NotStored."""
    seconds = destination.timeout_seconds
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = seconds
    for sop_class in sorted(classes):
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            entity.add_requested_context(sop_class, syntax)
    try:
        tls = (destination.ssl_context(), destination.host) if destination.tls else None
        association = entity.associate(destination.host, destination.port, ae_title=destination.ae_title, tls_args=tls)
    except (ssl.SSLError, OSError) as error:
        raise NotStored(f"no TLS connection ({type(error).__name__})") from None
    if association.is_established:
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        if missing := sorted(classes - {str(each) for each in accepted}):
            association.release()
            raise NotStored(f"takes no {', '.join(UID(each).name for each in missing)}")
        return association
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = getattr(answer, "reason_str", "") if answer is not None else ""
        raise NotStored(f"refused the association: {reason or 'no reason given'}")
    raise NotStored("no connection" + (", or no TLS with a trusted certificate" if destination.tls else ""))


def _store_one(association: Association, path: Path, sop_class: str) -> int | None:
    """Status of sending one object; None where the association broke off."""
    explicit = any(
        context.abstract_syntax == sop_class and ExplicitVRLittleEndian in context.transfer_syntax
        for context in association.accepted_contexts
    )
    if not association.is_established:
        return None
    try:
        # An archive that takes implicit VR alone gets the object written anew.
        answer = association.send_c_store(path if explicit else dcmread(path))
    except RuntimeError:
        return None
    return int(answer.Status) if "Status" in answer else None
