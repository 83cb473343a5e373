// Text for a terminal: colours and line wrapping.
#pragma once

#include "probe_print.hpp"

#include <fmt/color.h>

#include <string>
#include <string_view>
#include <vector>

inline const auto heading = fmt::emphasis::bold | fmt::fg(fmt::terminal_color::cyan);
inline const auto good = fmt::fg(fmt::terminal_color::green);
inline const auto so_so = fmt::fg(fmt::terminal_color::yellow);
inline const auto bad = fmt::fg(fmt::terminal_color::red);

/// The unchanged text if there are no colours.
std::string coloured(std::string_view text, const fmt::text_style& colour, const Style& style);
std::string joined(const std::vector<std::string>& words, std::string_view between);
void print_heading(std::string_view text, const Style& style);
/// Prints @p text wrapped to the terminal's width. The first line continues a line that already has @p column
/// characters; the others are indented by @p indent spaces.
void print_wrapped(std::string_view text, std::size_t column, std::size_t indent, const Style& style);
