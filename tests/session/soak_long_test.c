#include "check.h"
#include "soak.h"

CASE(ten_thousand_cycles) /* E6 */
{
    soak(10000);
}

CHECK_MAIN(ENTRY(ten_thousand_cycles))
