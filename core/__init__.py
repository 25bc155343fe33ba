"""The engine: scans become images. A library of numpy and torch that knows nothing of HTTP, queues and tables.

`core.formats` reads scans, `core.reconstruct` solves them slice by slice, `core.results` writes volumes. Importing the
package or its torch-free modules (acquisition, cards, errors, formats, metrics, parameters, pictures, results) does not
import torch.
"""
