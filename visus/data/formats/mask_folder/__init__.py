"""Images with masks beside them: CamVid, Cityscapes, ADE20K and the like."""
