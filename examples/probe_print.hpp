// The probe's findings for people: devices as an indented list, the matrix as a table with numbered reasons.
#pragma once

#include "probe_matrix.hpp"

#include <cstddef>

struct Style {
  bool has_colours = false;
  std::size_t width = 100;  ///< columns of the terminal
  bool is_long = false;     ///< every format and mode
};

void print_devices(const Json& devices, const Style& style);
void print_matrix(const Matrix& matrix, const Style& style);
