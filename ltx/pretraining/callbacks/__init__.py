"""Lightning callbacks: what a training writes on the way, when it validates, and how it stops."""
