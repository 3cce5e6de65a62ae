"""What every stage shares: the contract, planning, stores, locks, identity."""
