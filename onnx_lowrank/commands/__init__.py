"""What stands beside a conversion: sweep, inspect, compare, bench."""
