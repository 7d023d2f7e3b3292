from t5jax.cli.entry import main

main()
