"""Files of a store, here or in an object store; locks; files of uids."""
