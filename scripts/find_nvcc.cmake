# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# find_nvcc(<least version> <reason>): sets CMAKE_CUDA_COMPILER to an nvcc that works. Else <reason> says what is wrong
# with the one that is there, and what to do. The version is asked first: one that is too old fails on a new host
# compiler, and CMake would say that there is none.
include(CheckLanguage)

function(find_nvcc least reason)
  set(nvcc "${CMAKE_CUDA_COMPILER}")
  if(NOT nvcc)
    set(nvcc "$ENV{CUDACXX}")
  endif()
  if(NOT nvcc)
    find_program(SWITCHYARD_NVCC nvcc)
    set(nvcc "${SWITCHYARD_NVCC}")
  endif()
  set(newer "Put ${least} or newer on the PATH, or name it by -DCMAKE_CUDA_COMPILER")
  if(NOT nvcc)
    set(${reason} "no nvcc found. ${newer}" PARENT_SCOPE)
    return()
  endif()

  execute_process(COMMAND "${nvcc}" --version OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE ended)
  string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" release "${said}")
  set(version "${CMAKE_MATCH_1}")
  if(NOT release)
    set(${reason} "${nvcc} does not say its version (${ended}). ${newer}" PARENT_SCOPE)
  elseif(version VERSION_LESS least)
    set(${reason} "nvcc ${version} (${nvcc}) is too old. ${newer}" PARENT_SCOPE)
  else()
    check_language(CUDA)
    set(${reason} "" PARENT_SCOPE)
    if(NOT CMAKE_CUDA_COMPILER)
      set(${reason} "nvcc ${version} (${nvcc}) does not compile with this host compiler. ${newer}" PARENT_SCOPE)
    endif()
  endif()
endfunction()
