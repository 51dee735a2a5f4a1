"""Records with random access, their order, and the tf.data pipeline that makes batches of views."""
