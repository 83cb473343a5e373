# One function creates every library of dmaflow, so that all get the same warnings, sanitizers, exports and install rules.

# Flags for all our own targets (libraries, programs, tests); not passed on to users.
add_library(dmaflow_flags INTERFACE)
target_compile_options(dmaflow_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wnon-virtual-dtor -Wold-style-cast
  -Woverloaded-virtual
  # Vulkan's structures are filled in by name; fields that are not named are zero, as Vulkan requires.
  -Wno-missing-field-initializers
  # GCC 12 warns of overlapping copies in any optimised `"text" + std::string` (GCC bug 105651).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  # Clang warns of deprecated code in std::stable_sort of GCC 12's library.
  $<$<CXX_COMPILER_ID:Clang>:-Wno-deprecated-declarations>
  $<$<BOOL:${DMAFLOW_WERROR}>:-Werror>)
if(CMAKE_SIZEOF_VOID_P EQUAL 4)  # our own code only: no public header has off_t, ino_t, time_t or types made of them
  target_compile_definitions(dmaflow_flags INTERFACE _FILE_OFFSET_BITS=64 _TIME_BITS=64)
endif()
if(DMAFLOW_SANITIZE)
  target_compile_options(dmaflow_flags INTERFACE -fsanitize=${DMAFLOW_SANITIZE} -fno-omit-frame-pointer
                         -fno-sanitize-recover=all)
  target_link_options(dmaflow_flags INTERFACE -fsanitize=${DMAFLOW_SANITIZE})
endif()

# The ABI's version. Before 1.0 each minor version may break the ABI, which is also what SameMinorVersion tells find_package.
set(DMAFLOW_SOVERSION ${PROJECT_VERSION_MAJOR})
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(DMAFLOW_SOVERSION 0.${PROJECT_VERSION_MINOR})
endif()

# dmaflow_library(NAME SOURCES... [LINKS ...] [PRIVATE_LINKS ...]): the target dmaflow_NAME, as dmaflow::NAME.
function(dmaflow_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  set(target dmaflow_${name})
  add_library(${target} ${ARG_SOURCES})
  add_library(dmaflow::${name} ALIAS ${target})
  target_compile_features(${target} PUBLIC cxx_std_23)
  target_include_directories(${target}
    PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
           $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${target} PUBLIC ${ARG_LINKS} PRIVATE $<BUILD_INTERFACE:dmaflow_flags> ${ARG_PRIVATE_LINKS})
  # No program replaces our functions at run time, so GCC may inline them although the code is position independent. This
  # saves a tenth of the GPU stage's own instructions for each frame. Clang inlines them by default.
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fno-semantic-interposition>)
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} VERSION ${PROJECT_VERSION}
                        SOVERSION ${DMAFLOW_SOVERSION} POSITION_INDEPENDENT_CODE ON)
  set_property(GLOBAL APPEND PROPERTY DMAFLOW_LIBRARIES ${target})
endfunction()

# dmaflow_backend(NAME ...): the same, and part of dmaflow::dmaflow.
function(dmaflow_backend name)
  dmaflow_library(${name} ${ARGN})
  set_property(GLOBAL APPEND PROPERTY DMAFLOW_BACKENDS ${name})
  message(STATUS "dmaflow: backend ${name}: yes")
endfunction()

function(dmaflow_no_backend name reason)
  message(STATUS "dmaflow: backend ${name}: no (${reason})")
endfunction()
