// SPDX-License-Identifier: MIT
#include "decode_case_impl.hpp"

template class bench::decode_case<float>;
