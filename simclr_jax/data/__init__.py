"""Records with random access, their order, and the tf.data pipeline that makes batches of views."""

import os

# Read when TensorFlow is imported. oneDNN reorders sums from one processor to the next, and a batch
# should be a function of (seed, step).
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
# TensorFlow logs a traceback for each error that the reading of records raises, though that error
# is caught and told in a line. 1 is no user's wish: JAX sets it when it is imported.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
