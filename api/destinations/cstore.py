"""C-STORE: send DICOM objects to an archive by the DIMSE protocol (DICOM PS3.4 B), with TLS where it wants that.

The API process imports this module with the first such delivery: pynetdicom brings pydicom.
"""

import logging
import ssl
import threading
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


class Sending:
    """One attempt to send objects, in a thread; `stop` ends it from another one."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._association: Association | None = None

    def stop(self) -> None:
        """End the association; `store` then raises NotStored."""
        self._stopped.set()
        if (association := self._association) is not None:
            association.abort()
            association.dimse.msg_queue.put((None, None))  # wakes who waits for an answer

    def store(self, destination: DIMSEDestination, objects: ResultObjects, storage: Storage) -> None:
        """Send all objects over one association. Raises NotStored."""
        classes = [_sop_class(objects, number) for number in range(len(objects))]
        association = self._association = _associate(destination, set(classes))
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
                association.abort()
        if failures:
            raise refused(failures, len(objects))


class _Socket(AssociationSocket):
    """A socket that is closed, too, where it could not be connected."""

    def _shutdown_socket(self) -> None:
        opened = self.socket
        super()._shutdown_socket()
        if opened is not None:
            opened.close()


class _Entity(AE):
    """An application entity that leaves no socket open."""

    def _create_socket(self, assoc: Association, address: Any, tls_args: Any) -> AssociationSocket:
        made = _Socket(assoc, address=address)
        made.tls_args = tls_args
        return made


def _sop_class(objects: ResultObjects, number: int) -> str:
    """SOP class of an object."""
    with objects.open(number) as stored:
        meta = dcmread(stored, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta
    return str(meta.MediaStorageSOPClassUID)


def _associate(destination: DIMSEDestination, classes: set[str]) -> Association:
    """An association that takes all these classes. Raises NotStored."""
    entity = _Entity(ae_title=destination.calling_ae_title)
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
