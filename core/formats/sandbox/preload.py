"""Loads all that reading a scan takes, for a process that can open no file later: it reads small scans of its own."""

import base64
import io
import os
import tempfile
import zlib
from contextlib import suppress

import numpy as np

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats import Limits, prepare
from udig_recon.core.formats.containers.source import ScanFile
from udig_recon.core.formats.sandbox.messages import pack

# k-space of 1 x 2 x 8 x 8 with gzip, shuffle and fletcher32, a header, a mask and two attributes, as h5py writes it.
_HDF5 = (
    "c-rlnzi$&U6vyAQFVfK;B9&5_A|!6$M+YPjlnojx8psgQ3K$p==_zr@sdrU%Iizd^v6TOyBO@at8!IC#NFXE@#ty6~+@0<Fr6?4ppuUe"
    "3y|evnKRdQ1f8|$=jXU!*r)MC-G{Jx}WEm-%7xQUdzO5`OyRYmUrt^)stg7<Ms(tsoOutq65AWCOk@u*8?&rXe)&k-<(x|U*MfQ<OuPF"
    "P0<^6X0dv;p@IDOCe{7$PU?2hmOJiEV>U8h%$*e^mUuG2%EZb)ljZr$rJ%!2(>Ifr5FbBf74|A=udSZBddJ7UR%rRU+7qsokbs9OqqkK"
    "$mQ#UanaR-8tz<B!S_`n_k}t}8O*lldLdb?rbTeRH+XL*Jm?6aKZUdfajcb5{CRN~egaDbYW8aBp)1lU4wlmC0k$@mPGapFTg%TsR*4C"
    "OTJf%(;5*FWXtE6!*pCb#2m-MGyo*5ClOG1o2-oc+%dketK;WU;G08^RVi`&9xu%AHTo+3UGb>J%0YuKB2V|z*HN^-W54i<L_mJ_+DR5"
    "%A{YSK`@zZD%FtV<3-s*xe(RCRL@xyt-F}sm+#)*Y+_~@2>DUnP@+{M)~qhC>ASVoR01&wvhBY+N$Zjz2!bF8f*=TjAf}B4b<;1tk($$"
    "QN<xncn6T#zgxiW9vN*d>Tb`HHw`xi$xdp4UusY&-9YJzfn+wZjzA4+Y14rxzu#7lXcfpL#p!Es{>D!l7&yjizVzzenEsNB5#=S3zNcA"
    "07(04AW*JV~=#`dS|9~{;u{eA;8<ct3"
)


def familiarise() -> None:
    """Read a scan of each format, and one that is refused."""
    kspace, sinogram = np.ones((2, 8, 8), np.complex64), np.ones((9, 8), np.float32)
    plain, packed, damaged = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(plain, kspace)
    np.savez_compressed(packed, sinogram=sinogram, angles=np.arange(9) / 9, geometry="parallel")
    np.savez(damaged, sinogram=sinogram, angles=np.full(9, np.nan))
    hdf5 = zlib.decompress(base64.b85decode("".join(_HDF5)))
    for content in (hdf5, plain.getvalue(), packed.getvalue(), damaged.getvalue(), hdf5[:5000], b"PK\3\4", b"GIF89a"):
        with tempfile.TemporaryFile() as scan, tempfile.TemporaryFile() as output:
            scan.write(content)
            scan.flush()
            os.lseek(scan.fileno(), 0, os.SEEK_SET)
            with suppress(ReconstructionError):
                pack(prepare(ScanFile(scan.fileno()), Limits(), "", output.fileno()))
