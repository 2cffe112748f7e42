"""What each group of KuaiRand's columns brings."""
