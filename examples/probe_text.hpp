// Text for a terminal: colours, and lines that end where it does.
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

/// The text as it is, where there are no colours.
std::string coloured(std::string_view text, const fmt::text_style& colour, const Style& style);
std::string joined(const std::vector<std::string>& words, std::string_view between);
void print_heading(std::string_view text, const Style& style);
/// Prints @p text in lines of the terminal's width, all but the first behind @p indent spaces; the first continues a
/// line that has @p column characters already.
void print_wrapped(std::string_view text, std::size_t column, std::size_t indent, const Style& style);
