"""Files of a store, local or in an object store; locks; files of uids."""
