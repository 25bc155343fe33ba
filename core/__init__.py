"""The engine: scans become images. A library of numpy and torch that knows nothing of HTTP, queues and tables.

`udig_recon.core.formats` reads scans, `udig_recon.core.reconstruct` solves them slice by slice,
`udig_recon.core.results.store` writes volumes. Importing the
package or its torch-free modules (acquisition, cards, errors, formats, metrics, parameters, pictures, results) does not
import torch.
"""
