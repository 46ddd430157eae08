# Runs at install time, when the commit that was built is known: share/spillway/build.json from `template`; `root` is the
# source folder.
execute_process(COMMAND git -C ${root} describe --always --dirty --abbrev=12
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit)
  set(commit unknown)
endif()
file(READ ${template} facts)
string(REPLACE "$commit$" "${commit}" facts "${facts}")
file(WRITE $ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/share/spillway/build.json "${facts}")
