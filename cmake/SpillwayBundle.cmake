# `cpack`: a folder that runs where it is unpacked, without root, with the libraries it needs beside it; of the target it
# asks the C library, and for a GPU the driver. Tests and benchmarks are in it when they are built. Included last.
set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_FILE_NAME spillway-${PROJECT_VERSION}-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES TRUE)
set(CPACK_VERBATIM_VARIABLES TRUE)

set(programs spillway)
foreach(folder kernels memory prefetch loader runtime apps)
  list(APPEND programs ${folder}_tests)
endforeach()
list(APPEND programs
  cuda_module_check make_model limits link_perf gather_perf product_perf ops_perf disk_perf compare_logits)
foreach(program ${programs})
  if(TARGET ${program})
    set_target_properties(${program} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
    # The old kind of path: the new one is not searched for what the bundled libraries need themselves.
    target_link_options(${program} PRIVATE LINKER:--disable-new-dtags)
    install(TARGETS ${program} RUNTIME_DEPENDENCY_SET libraries RUNTIME DESTINATION bin)
  endif()
endforeach()
# The C library must be the target's own; a C++ library older than the one built with would not do.
install(RUNTIME_DEPENDENCY_SET libraries
  PRE_EXCLUDE_REGEXES "ld-linux" "lib(c|m|dl|rt|pthread)[.]so"
  DIRECTORIES /usr/lib /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE} /lib/${CMAKE_LIBRARY_ARCHITECTURE}
  LIBRARY DESTINATION lib)
if(TARGET spillway_cuda)
  install(TARGETS spillway_cuda LIBRARY DESTINATION lib/spillway)
endif()
if(TARGET runtime_tests)
  foreach(folder loader runtime)
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/tests/${folder}/data DESTINATION share/spillway/tests/${folder})
  endforeach()
endif()
# The GPU run's script with what it calls, in the places where a checkout has them.
if(TARGET spillway_cuda_emulated)
  install(TARGETS spillway_cuda_emulated LIBRARY DESTINATION lib/spillway)
endif()
install(PROGRAMS scripts/gpu-run.sh DESTINATION scripts)
install(DIRECTORY perf/gpu perf/peers DESTINATION perf FILES_MATCHING PATTERN "*.py" PATTERN __pycache__ EXCLUDE)
install(FILES LICENSE README.md DESTINATION share/spillway)
# What was built: a bundle has no history to ask.
configure_file(${CMAKE_CURRENT_LIST_DIR}/build.json.in ${PROJECT_BINARY_DIR}/build.json.in @ONLY)
install(CODE "set(root \"${PROJECT_SOURCE_DIR}\")
set(template \"${PROJECT_BINARY_DIR}/build.json.in\")")
install(SCRIPT ${CMAKE_CURRENT_LIST_DIR}/InstallBuildFacts.cmake)
include(CPack)
