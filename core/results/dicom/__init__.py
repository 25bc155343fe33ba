"""DICOM objects of a result: MR and CT images, secondary captures, parametric maps, in a zip of series."""
