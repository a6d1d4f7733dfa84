"""What makes the calls happen: submit directory, payload, description, tracker."""
