"""Records with random access, their order, and the tf.data pipeline that makes batches of views."""

import os

# Read when TensorFlow is imported. oneDNN reorders sums from one processor to the next, and a batch
# should be a function of (seed, step); the second quiets what TensorFlow says about itself.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
