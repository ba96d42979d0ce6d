"""Pascal VOC: boxes in XML files, and label maps."""
