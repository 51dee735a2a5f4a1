def write_segment_report(*a):
    pass
