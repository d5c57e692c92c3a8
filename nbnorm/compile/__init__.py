"""All that knows Numba's inside: compile options, the cache on disk, threads, function pointers.

Numba promises nothing about these parts of it, so `pyproject.toml` allows only releases that have been tried:

- in `cache`, ``numba.core.caching`` (`FunctionCache`, `CompileResultCacheImpl`, `_CacheLocator`) and
  ``numba.core.serialize.dumps``, for a cache whose files are bound to the whole package, and the code
  generator of ``numba.core.registry.cpu_target``, which their names contain;
- in `passes`, the class ``numba.core.codegen.JITCodeLibrary`` with its methods ``_optimize_functions``,
  ``finalize`` and ``get_pointer_to_function`` and what these use, the code generator's ``create_library``,
  ``set_env`` and ``_engine``, and ``numba.core.compiler_lock``;
- in `workspace`, ``numba.core.typing.templates``;
- in `arrays` and `pointers`, the fields of an array's data model;
- in `numba_start`, that ``numba.np.arraymath`` calls ``numba.np.linalg.ensure_blas`` when it is imported;
- in `kernels`, a dispatcher's ``_cache``, ``add_overload`` and ``_compile_for_args``, and the options
  ``_nrt``, ``no_cpython_wrapper`` and ``no_cfunc_wrapper``;
- in `threads`, ``numba.np.ufunc.parallel._is_initialized``, which tells whether threads have been started,
  and ``_get_num_threads``, which tells how many;
- in `signatures`, that a dispatcher's ``compile`` is called for every new signature, and
  ``numba.core.sigutils``;
- in `pointers`, the code generator of ``numba.core.registry.cpu_target`` with its ``magic_tuple``, libraries
  and addresses, a dispatcher's ``overloads``, the calling convention ``call_conv``, and
  ``numba.core.typing.templates``;
- in `_check`, the class ``numba.core.dispatcher.Dispatcher``;
- where instructions are emitted, in `atomics` and `simd`, ``numba.core.cgutils`` beside the documented
  ``numba.extending`` and llvmlite's ``ir``;
- in `simd`, ``numba.core.typing.templates`` (`AbstractTemplate`, `infer`, `infer_global`, `signature`),
  ``numba.core.registry.cpu_target`` and ``numba.np.numpy_support``.
"""
