"""COCO: boxes, outlines, keypoints, captions and panoptic maps in JSON files."""
