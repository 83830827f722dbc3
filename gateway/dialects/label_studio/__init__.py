"""Label Studio's protocol of machine learning backends: predictions for its tasks, in the terms of its interface."""
